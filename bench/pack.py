"""Times the whole ModulatedDeformConv2dPack, offset convolution included, against nn.Conv2d.

    python bench/pack.py --out rows.json                    # on a GPU; channels_last
    python bench/pack.py --layers seed-small --dtypes bf16

Forward passes without gradients, of the layer as it is and prepacked (`dcn.prepack`). `ms` are the
device's, the L2 flushed before each call; of the convolution, those of its better memory format.
`call us` are wall-clock microseconds of a call among many without a pause between them, eager and
as a replayed CUDA graph: of small layers, what launches cost. Offsets are about N(0, 1) px.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from commit import measured_commit
from torch import nn

import dcn
from dcn import bench
from dcn.layers import LAYERS, Layer

KINDS = ("conv", "pack", "prepacked")


def layers_of(layer: Layer, dtype: str, device: str) -> dict[str, nn.Module]:
    """In channels_last. The offsets of an input N(0, 1) are about N(0, 1)."""
    geometry = (layer.C, layer.K, layer.k, layer.stride, layer.pad, layer.dilation, layer.groups)
    pack = dcn.ModulatedDeformConv2dPack(*geometry, offset_groups=layer.offset_groups)
    nn.init.normal_(pack.conv_offset.weight, std=pack.conv_offset.weight[0].numel() ** -0.5)
    made = {"conv": nn.Conv2d(*geometry), "pack": pack}
    for module in made.values():
        module.eval().to(device, bench.DTYPES[dtype], memory_format=torch.channels_last)
    made["prepacked"] = dcn.prepack(copy.deepcopy(pack))
    return made


def call_us(run: Callable[[], object], device: str, calls: int = 100) -> float:
    """Best of five rounds."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / calls)
    return best * 1e6


def measure(layer: Layer, dtype: str, args) -> dict:
    bench.set_precision(dtype)
    torch.manual_seed(0)
    modules = layers_of(layer, dtype, args.device)
    x = torch.randn(layer.N, layer.C, layer.H, layer.W, device=args.device).to(bench.DTYPES[dtype])
    wide = x.contiguous(memory_format=torch.channels_last)
    runs = {kind: lambda module=module: module(wide) for kind, module in modules.items()}
    plain = copy.deepcopy(modules["conv"]).to(memory_format=torch.contiguous_format)
    times = bench.best_of_interleaved(
        runs | {"conv nchw": lambda: plain(x)}, args.device, args.repeats, args.budget
    )
    row = {"layer": layer.name, "dtype": dtype}
    row |= {f"{kind}_ms": times[kind] for kind in KINDS}
    row["conv_ms"] = min(times["conv"], times["conv nchw"])
    for kind, run in runs.items():
        row[f"{kind}_call_us"] = call_us(run, args.device)
        if args.device == "cuda":
            row[f"{kind}_replay_us"] = call_us(bench.graph_replay(run), args.device)
    runs["prepacked"]()
    row["plan"] = str(dcn.last_plan())
    row["prepacked"] = dcn.last_plan().prepacked
    return row


def line(row: dict) -> str:
    cells = [row["layer"], row["dtype"]]
    cells += [f"{row[f'{kind}_ms']:.4f}" for kind in KINDS]
    cells += [f"{row[f'{kind}_ms'] / row['conv_ms']:.2f}" for kind in KINDS[1:]]
    for timing in ("call", "replay"):
        values = [row.get(f"{kind}_{timing}_us") for kind in KINDS]
        cells.append(" / ".join(f"{value:.1f}" if value else "-" for value in values))
    return f"| {' | '.join(cells)} |"


HEAD = (
    "layer", "dtype", "convolution ms", "pack ms", "prepacked ms", "pack / convolution",
    "prepacked / convolution", "call us, eager: convolution / pack / prepacked", "graph",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device)
    parser.add_argument("--dtypes", nargs="+", choices=bench.DTYPES, default=["bf16", "tf32"])
    names = [layer.name for layer in LAYERS]
    parser.add_argument("--layers", nargs="+", choices=names, default=names)
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the lowest median counts")
    parser.add_argument("--budget", type=float, default=8.0, help="ms of a layer and round")
    parser.add_argument("--commit", help="what is measured, where git is not there to say so")
    parser.add_argument("--out", type=Path, help="where to write the rows, as JSON")
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    stamp = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "commit": measured_commit(Path(__file__).parent, args.commit),
        "torch": torch.__version__,
    }
    rows = []
    print(f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|", sep="\n")
    layers = [layer for layer in LAYERS if layer.name in args.layers]
    with torch.inference_mode():
        for layer, dtype in itertools.product(layers, args.dtypes):
            rows.append(measure(layer, dtype, args) | stamp)
            print(line(rows[-1]), flush=True)
            if args.out:
                args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
