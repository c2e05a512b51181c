"""The console script `dcn`: `demo`, `check`, `plan`, `bench` and `plot`."""

from __future__ import annotations

import argparse
import platform
import sys
import time

import torch

from . import _build, bench, plan, reference
from .layers import LAYERS, Layer


def check(argv: list[str]) -> int:
    """Versions, devices, and whether the operator agrees with the reference on this machine."""
    argparse.ArgumentParser(prog="dcn check", description=check.__doc__).parse_args(argv)
    start = time.perf_counter()
    built = f"CUDA {_build.cuda_version} for {_build.archs}" if _build.cuda_version else "CPU only"
    print(f"dcn {_build.version}, built against torch {_build.torch_version}: {built}")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print(f"CPU: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    devices = ["cpu"]
    if torch.cuda.is_available() and _build.cuda_version:
        print(f"GPU: {torch.cuda.get_device_name()}, {torch.cuda.device_count()} visible")
        devices.append("cuda")
    elif _build.cuda_version:
        print("GPU: none that torch can use")
    else:
        print("GPU: not used: a build with CUDA kernels needs nvcc and a torch with CUDA")
    failures = sum(not agrees(device, dtype) for device in devices for dtype in bench.DTYPES)
    verdict = "everything agrees" if failures == 0 else f"{failures} combinations DISAGREE"
    print(f"{verdict} with the reference ({time.perf_counter() - start:.1f} s)")
    return min(failures, 1)


def relative_error(ours: torch.Tensor, truth: torch.Tensor) -> float:
    return ((ours.double() - truth).norm() / truth.norm()).item()


def agrees(device: str, name: str) -> bool:
    """Output and gradients of one layer against the reference in float64; prints the errors."""
    # A few times the rounding of one value in each dtype: wrong arithmetic is off by far more.
    limits = {"f32": 1e-5, "tf32": 5e-3, "f16": 5e-3, "bf16": 4e-2}
    bench.set_precision(name)
    layer = Layer("check", "", N=2, C=32, H=20, W=24, K=16, offset_groups=2)
    # Offsets a quarter to three quarters of a pixel from the integers, where the derivative jumps.
    data = bench.make_inputs(layer, bench.DTYPES[name], device)
    offset = (data.offset.detach().floor() + 0.25 + 0.5 * torch.rand_like(data.offset)).detach()
    data.offset = offset.requires_grad_()
    ours = data.forward()
    gradients = torch.autograd.grad(ours, data.leaves(True), data.grad)
    exact = [leaf.detach().double().requires_grad_() for leaf in data.leaves(True)]
    x, weight, bias, offset, mask = exact
    truth = reference.deform_conv2d(x, offset, weight, bias, layer.stride, layer.pad, mask=mask)
    expected = torch.autograd.grad(truth, exact, data.grad.double())
    error = relative_error(ours, truth)
    worst = max(map(relative_error, gradients, expected))
    good = max(error, worst) < limits[name]
    print(
        f"  {device:4} {name:4} error {error:.1e}, worst gradient {worst:.1e}"
        f" (limit {limits[name]:.0e}): {'ok' if good else 'WRONG'}"
    )
    return good


def layers_of(arguments: argparse.Namespace) -> list[Layer]:
    """The layers named, or the one given by `--shape`."""
    if arguments.shape:
        n, c, h, w, k, size = arguments.shape
        return [
            Layer(
                "custom", "", N=n, C=c, H=h, W=w, K=k, k=size,
                stride=arguments.stride, pad=arguments.pad if arguments.pad >= 0 else size // 2,
                dilation=arguments.dilation, groups=arguments.groups,
                offset_groups=arguments.offset_groups, mask=not arguments.no_mask,
            )
        ]  # fmt: skip
    return [layer for layer in LAYERS if not arguments.layers or layer.name in arguments.layers]


def layer_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"dcn {name}", description=description)
    parser.add_argument(
        "layers", nargs="*", metavar="LAYER", choices=[[], *(layer.name for layer in LAYERS)],
        help="one of " + ", ".join(layer.name for layer in LAYERS) + "; all when none is named",
    )  # fmt: skip
    numbers = ("N", "C", "H", "W", "K", "k")
    parser.add_argument("--shape", type=int, nargs=6, metavar=numbers, help="a layer by numbers")
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--pad", type=int, default=-1, help="k // 2 when not given")
    parser.add_argument("--dilation", type=int, default=1)
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--offset-groups", type=int, default=1)
    parser.add_argument("--no-mask", action="store_true", help="version 1")
    return parser


def print_plans(argv: list[str]) -> int:
    """Which algorithm runs a layer, and how its work is cut, on a device that need not be there."""
    parser = layer_parser("plan", print_plans.__doc__)
    parser.add_argument("--device", default="h200", help="cpu, h200, a100, l20 or rtx4090")
    parser.add_argument("--dtype", default="bf16", choices=["f64", *bench.DTYPES])
    arguments = parser.parse_args(argv)
    for layer in layers_of(arguments):
        for pass_ in ("forward", "backward"):
            made = plan(
                (layer.N, layer.C, layer.H, layer.W),
                (layer.K, layer.C // layer.groups, layer.k, layer.k),
                stride=layer.stride, padding=layer.pad, dilation=layer.dilation,
                offset_groups=layer.offset_groups, pass_=pass_, device=arguments.device,
                dtype=arguments.dtype.replace("tf32", "f32"), tf32=arguments.dtype == "tf32",
            )  # fmt: skip
            print(f"{layer.name:12} {pass_:8} {made}")
    return 0


def has_torchvision() -> bool:
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return False
    return True


def run_bench(argv: list[str]) -> int:
    """Milliseconds of dcn beside the plain convolution, and torchvision where it is installed."""
    parser = layer_parser("bench", run_bench.__doc__)
    device = "cuda" if torch.cuda.is_available() and _build.cuda_version else "cpu"
    parser.add_argument("--device", default=device)
    parser.add_argument("--dtype", choices=bench.DTYPES, help="f32 on the CPU, f16 on a GPU")
    parser.add_argument("--nchw", action="store_true", help="contiguous instead of channels_last")
    arguments = parser.parse_args(argv)
    dtype = arguments.dtype or ("f32" if arguments.device == "cpu" else "f16")
    bench.set_precision(dtype)
    torch.backends.cudnn.benchmark = True
    layout = bench.LAYOUTS["nchw" if arguments.nchw else "channels_last"]
    theirs = has_torchvision() and dtype != "bf16"
    print(f"{dtype} on {arguments.device}; ms, and the ratio to the plain convolution of the shape")
    print(f"{'layer':12} {'pass':8} {'dcn':>9} {'conv':>9} {'ratio':>6} {'torchvision':>12}")
    for layer in layers_of(arguments):
        data = bench.make_inputs(layer, bench.DTYPES[dtype], arguments.device, layout)
        for backward in (False, True):
            runs = bench.competitors(data, theirs, backward)
            times = bench.best_of_interleaved(runs, arguments.device, repeats=2)
            other = f"{times['torchvision']:12.3f}" if theirs else f"{'-':>12}"
            print(
                f"{layer.name:12} {'backward' if backward else 'forward':8} {times['dcn']:9.3f} "
                f"{times['conv']:9.3f} {times['dcn'] / times['conv']:6.2f} {other}",
                flush=True,
            )
    return 0


def run_demo(argv: list[str]) -> int:
    """Trains a deformable Mask R-CNN on a photograph of coins, beside a plain one."""
    from . import demo

    return demo.main(argv)


def run_plot(argv: list[str]) -> int:
    """Draws where the taps of some pixels sample in a photograph, for a model of yours."""
    from . import plot_command

    return plot_command.main(argv)


COMMANDS = {
    "demo": run_demo,
    "check": check,
    "plan": print_plans,
    "bench": run_bench,
    "plot": run_plot,
}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    print("usage: dcn {" + ",".join(COMMANDS) + "} [options]\n")
    for name, command in COMMANDS.items():
        print(f"  {name:6} {command.__doc__}")
    return 0 if argv and argv[0] in ("-h", "--help") else 2


if __name__ == "__main__":
    sys.exit(main())
