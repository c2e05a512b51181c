"""Times every compiled tile of the fused forward pass, at offsets of several lengths.

    python bench/tiles.py --out rows.json                     # on an H100 or H200; channels_last
    python bench/tiles.py --dtypes tf32 --layers rcnn-c4 --sigma 1 --splits 1 2 4

Whether the plan, which does not know the offsets, takes the right tile: a row for each layer, dtype
and offset length, with the times of im2col_gemm and of all tiles, each of them forced, the split of
each as the plan has it (or each of --splits). Tiles for compute capability 8.0 are in the rows too,
and their best is shown apart: on 9.x they run only if forced.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from commit import measured_commit

import dcn
from dcn import bench
from dcn.layers import LAYERS, VARIANTS, Layer

MOST_TILES = 32  # asked of the plan; there are fewer


def plan_of(layer: Layer, dtype: str, **more):
    """The plan, or None for a tile and split that the layer has not."""
    shapes = (
        (layer.N, layer.C, layer.H, layer.W),
        (layer.K, layer.C // layer.groups, layer.k, layer.k),
    )
    options = {
        "stride": layer.stride, "padding": layer.pad, "dilation": layer.dilation,
        "offset_groups": layer.offset_groups, "dtype": bench.DTYPES[dtype], "tf32": dtype == "tf32",
    }  # fmt: skip
    try:
        return dcn.plan(*shapes, **options, **more)
    except ValueError as reason:
        if "no such tile" not in str(reason):
            raise
        return None


def plans(layer: Layer, dtype: str, splits: list[int]) -> dict[str, dict]:
    """Of each legal tile and split, by name: `fused` and its arguments, and whether it is for 8.0.

    A split of 0 leaves that to the plan.
    """
    found = {}
    for tile, split in itertools.product(range(MOST_TILES), splits):
        forced = {"algorithm": "fused", "tile": tile, "split_k": split}
        plan = plan_of(layer, dtype, **forced)
        if plan is not None:
            sm80 = plan_of(layer, dtype, **forced, device="a100") is not None
            name = f"tile {tile}, split {plan.split_k}"
            found[name] = {"forced": forced, "sm80": sm80, "plan": str(plan)}
    return found


def with_plan(run: Callable[[], object], forced: dict) -> Callable[[], object]:
    def forced_run() -> object:
        with dcn.force_algorithm(**forced):
            return run()

    return forced_run


def measure(layer: Layer, dtype: str, sigma: float, args) -> dict:
    bench.set_precision(dtype)
    data = bench.make_inputs(layer, bench.DTYPES[dtype], "cuda", sigma=sigma)
    forward = torch.no_grad()(data.forward)
    tiles = plans(layer, dtype, args.splits)
    runs = {name: with_plan(forward, each["forced"]) for name, each in tiles.items()}
    runs["im2col_gemm"] = with_plan(forward, {"algorithm": "im2col_gemm"})
    runs["plan"] = forward
    times = bench.best_of_interleaved(runs, "cuda", args.repeats, args.budget)
    forward()
    chosen = dcn.last_plan()
    return {
        "layer": layer.name,
        "dtype": dtype,
        "sigma": sigma,
        "plan": str(chosen),
        "plan_tile": f"tile {chosen.tile}, split {chosen.split_k}",
        "plan_ms": times["plan"],
        "im2col_gemm_ms": times["im2col_gemm"],
        "tiles": [
            {"name": name, "ms": times[name], "sm80": each["sm80"], "plan": each["plan"]}
            for name, each in tiles.items()
        ],
    }


def fastest(row: dict, sm80: bool) -> dict | None:
    return min(
        (tile for tile in row["tiles"] if tile["sm80"] == sm80),
        key=lambda tile: tile["ms"],
        default=None,
    )


def line(row: dict) -> str:
    best, sm80 = fastest(row, False), fastest(row, True)
    # The plan's tile is forced once as well: against that time, so that both pay for the forcing.
    # im2col_gemm has no tile.
    chosen = (tile["ms"] for tile in row["tiles"] if tile["name"] == row["plan_tile"])
    plan_ms = next(chosen, row["plan_ms"])
    cells = [
        row["layer"], row["dtype"], f"{row['sigma']:g} px", f"{row['plan_ms']:.4f}",
        row["plan_tile"], best["name"], f"{best['ms']:.4f}",
        f"{100 * (plan_ms / best['ms'] - 1):.1f} %", f"{row['im2col_gemm_ms']:.4f}",
        f"{sm80['ms']:.4f}" if sm80 else "-", sm80["name"] if sm80 else "-",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


HEAD = (
    "layer", "dtype", "offsets", "plan ms", "plan's tile", "best tile", "ms", "gain",
    "im2col_gemm ms", "best for 8.0 ms", "tile",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dtypes", nargs="+", choices=bench.DTYPES, default=["bf16", "tf32"])
    names = [layer.name for layer in LAYERS + VARIANTS]
    parser.add_argument("--layers", nargs="+", choices=names, default=names[: len(LAYERS)])
    parser.add_argument("--sigma", nargs="+", type=float, default=[0.0, 1.0, 4.0, 16.0])
    parser.add_argument("--splits", nargs="+", type=int, default=[0], help="0: as the plan has it")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the lowest median counts")
    parser.add_argument("--budget", type=float, default=4.0, help="ms of a tile and round")
    parser.add_argument("--commit", help="what is measured, where git is not there to say so")
    parser.add_argument("--out", type=Path, help="where to write the rows, as JSON")
    args = parser.parse_args()
    stamp = {
        "device": torch.cuda.get_device_name(),
        "commit": measured_commit(Path(__file__).parent, args.commit),
        "torch": torch.__version__,
    }
    rows = []
    print(f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|", sep="\n")
    layers = [layer for layer in LAYERS + VARIANTS if layer.name in args.layers]
    for layer, dtype, sigma in itertools.product(layers, args.dtypes, args.sigma):
        rows.append(measure(layer, dtype, sigma, args) | stamp)
        print(line(rows[-1]), flush=True)
        if args.out:
            args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
