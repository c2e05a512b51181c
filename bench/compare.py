"""Times dcn, torchvision and the plain convolution of the same shape in one run, on ten layers.

    python bench/compare.py                                  # the GPU, or the CPU with two threads
    python bench/compare.py --dtypes bf16 --layers seed-large --out rows.json
    python bench/compare.py --passes backward --sigma 0 1 4 16 --offsets normal clustered

Writes one row a layer, dtype, pass and layout. `conv_ms` is the better of the two memory formats.
A ratio within a row is the figure; milliseconds are its context.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch
from commit import measured_commit
from ort import onnxruntime_run
from table import offsets_of, summary

import dcn
from dcn import bench
from dcn.layers import LAYERS, VARIANTS


def competitors(inputs: dict[str, bench.Inputs], torchvision: bool, backward: bool):
    """The callables of one layer and pass in both layouts; torchvision's in NCHW, all it has."""
    runs = {}
    for layout, data in inputs.items():
        theirs = torchvision and layout == "nchw"
        for name, run in bench.competitors(data, theirs, backward).items():
            runs[name if name == "torchvision" else f"{name} {layout}"] = run
    return runs


def result_mib(data: bench.Inputs, backward: bool) -> float:
    tensors = data.leaves(True) if backward else [data.grad]
    return sum(t.numel() * t.element_size() for t in tensors) / 2**20


def add_deterministic(runs) -> None:
    """Ours once more, in that mode."""
    for layout in bench.LAYOUTS:
        runs[f"deterministic {layout}"] = bench.in_deterministic_mode(runs[f"dcn {layout}"])


def add_prepacked(runs, inputs: dict[str, bench.Inputs]) -> None:
    """Ours once more, with the weight packed before."""
    for layout, data in inputs.items():
        run = runs[f"prepacked {layout}"] = torch.no_grad()(data.prepacked())
        run()
        assert dcn.last_plan().prepacked


def measure(layer, dtype: str, sigma: float, offsets: str, args) -> list[dict]:
    bench.set_precision(dtype)
    device = args.device
    inputs = {
        name: bench.make_inputs(
            layer, bench.DTYPES[dtype], device, layout, sigma,
            clustered=offsets == "clustered", frozen=args.frozen,
        )
        for name, layout in bench.LAYOUTS.items()
    }  # fmt: skip
    rows = []
    for backward in (name == "backward" for name in args.passes):
        torchvision = not args.no_torchvision and dtype != "bf16"
        runs = competitors(inputs, torchvision, backward)
        if args.deterministic and device == "cuda":
            add_deterministic(runs)
        if args.prepacked and not backward:
            add_prepacked(runs, inputs)
        budget = 30.0 if device == "cuda" else 200.0
        if device == "cpu" and not backward:
            runs["onnxruntime"] = onnxruntime_run(inputs["nchw"])
        times = bench.best_of_interleaved(runs, device, budget_ms=budget)
        for layout, data in inputs.items():
            row = {
                "layer": layer.name,
                "dtype": dtype,
                "pass": "backward" if backward else "forward",
                "layout": layout,
                "sigma": sigma,
                "offsets": offsets,
                "frozen": args.frozen,
                "dcn_ms": times[f"dcn {layout}"],
                "conv_ms": min(times["conv channels_last"], times["conv nchw"]),
                "torchvision_ms": times.get("torchvision"),
                "workspace_mib": None,
            }
            if args.deterministic:
                row["deterministic_ms"] = times.get(f"deterministic {layout}")
            if args.prepacked:
                row["prepacked_ms"] = times.get(f"prepacked {layout}")
            if device == "cpu":
                row["ort_ms"] = times.get("onnxruntime")
            run = runs[f"dcn {layout}"]
            run()
            row["plan"] = str(dcn.last_plan())
            if device == "cuda":
                # The f32 sums of a 16-bit input gradient are shown apart.
                apart = dcn.last_plan().accumulator_bytes if data.input.element_size() == 2 else 0
                extra = bench.extra_memory_mib(run, device) - result_mib(data, backward)
                row["accumulator_mib"] = apart / 2**20
                row["workspace_mib"] = round(extra - row["accumulator_mib"], 2)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device)
    parser.add_argument("--dtypes", nargs="+", choices=bench.DTYPES)
    parser.add_argument("--layers", nargs="+", choices=[layer.name for layer in LAYERS + VARIANTS])
    parser.add_argument("--variants", action="store_true", help="other shapes instead of the ten")
    parser.add_argument(
        "--passes", nargs="+", choices=["forward", "backward"], default=["forward", "backward"]
    )
    parser.add_argument(
        "--sigma", nargs="+", type=float, default=[1.0], help="offset scale in pixels"
    )
    parser.add_argument(
        "--offsets", nargs="+", choices=["normal", "clustered"], default=["normal"],
        help="clustered: all samples of an image within 1 px of its middle",
    )  # fmt: skip
    parser.add_argument(
        "--frozen", nargs="+", choices=["input", "weight", "offset", "mask", "bias"], default=[],
        help="what needs no gradient",
    )  # fmt: skip
    parser.add_argument(
        "--deterministic", action="store_true", help="ours in PyTorch's deterministic mode as well"
    )
    parser.add_argument(
        "--prepacked", action="store_true", help="our forward pass with a packed weight as well"
    )
    parser.add_argument("--no-torchvision", action="store_true")
    parser.add_argument("--commit", help="what is measured, where git is not there to say so")
    parser.add_argument("--out", type=Path, help="where to write the rows, as JSON")
    args = parser.parse_args()
    commit = measured_commit(Path(__file__).parent, args.commit)
    dtypes = args.dtypes or (list(bench.DTYPES) if args.device == "cuda" else ["f32"])
    if args.device == "cpu":
        torch.set_num_threads(2)
    torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU, 2 threads"
    stamp = {"device": name, "commit": commit, "torch": torch.__version__}
    rows = []
    for layer in VARIANTS if args.variants else LAYERS:
        if args.layers and layer.name not in args.layers:
            continue
        spreads = [(sigma, "normal") for sigma in args.sigma if "normal" in args.offsets]
        if "clustered" in args.offsets:
            spreads.append((1.0, "clustered"))
        for dtype, spread in itertools.product(dtypes, spreads):
            new = measure(layer, dtype, *spread, args)
            rows += [row | stamp for row in new]
            for row in new:
                theirs = row["torchvision_ms"]
                also = [
                    f", {name} {row[f'{name}_ms']:.3f} ms"
                    for name in ("deterministic", "prepacked")
                    if row.get(f"{name}_ms")
                ]
                print(
                    f"{layer.name:12} {dtype:5} {row['pass']:8} {row['layout']:13} "
                    f"{offsets_of(row):9} "
                    f"dcn {row['dcn_ms']:8.3f} conv {row['conv_ms']:8.3f} "
                    f"torchvision {theirs or float('nan'):8.3f} ms  "
                    f"ratio {row['dcn_ms'] / row['conv_ms']:5.2f}  {row['workspace_mib']} MiB  "
                    f"{row['plan']}" + "".join(also),
                    flush=True,
                )
        if args.out:
            args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
