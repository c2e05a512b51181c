"""Runs every CUDA kernel under compute-sanitizer: memcheck, racecheck and initcheck.

    python bench/sanitize.py --out bench/results/sanitizer.json
    python bench/sanitize.py --tiles 9 10 11 12 13 --tools memcheck initcheck   # of fused, forward
    python bench/sanitize.py --backward-alone                                   # of fused

Shapes are small and odd; together they reach each kernel, each vector width, one and several
chunks and lanes, tiles that cross images, and samples inside, outside, at the border and NaN.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import torch
from commit import measured_commit

import dcn
from dcn.bench import clustered_offsets, in_deterministic_mode

DTYPES = ("float64", "float32", "float16", "bfloat16")
# initcheck does not see what cuBLAS stores with the bulk copy engine, as it does in all dtypes but
# f64, and reports each read of it. So in the others it sees `fused` alone, which calls no cuBLAS;
# tests/test_cuda.py poisons memory, in every dtype.
# A call of the kernel that scatters takes half a minute there: two an arithmetic. Each launch is
# waited for: otherwise initcheck reports, now and then and never the same, reads of what a kernel
# right behind an allocation has written.
# racecheck does not see that a lane that arrives at a barrier speaks for its warp, and reports each
# refill of a ring that all lanes have read: so the tiles of fprop_sm80 (weight_copies.cuh) and the
# large weight (split_weights.cuh) are left out there. With every lane arriving, which is slower, it
# finds nothing in either.
TOOLS = ("memcheck", "racecheck", "initcheck")
# What is asked of the plan for `fused`: every tile, alone and shared by three CTAs.
TILES, SPLITS = range(16), (1, 3)
# N, C, H, W, K, (R, S), G, D: vectors of 8, 4, 2 and 1 channels, and an image of one pixel.
SHAPES = (
    (3, 32, 7, 9, 24, (3, 3), 1, 1),
    (2, 24, 6, 5, 12, (3, 2), 2, 3),
    (2, 12, 5, 6, 6, (1, 1), 3, 2),
    (1, 15, 6, 7, 10, (2, 3), 5, 3),
    (2, 40, 17, 19, 33, (3, 3), 1, 5),
    (2, 16, 1, 1, 16, (1, 1), 1, 1),
)
# Of `fused` alone: several slices of channels, tiles of output channels and plans of taps; wide
# offset groups; images that meet in a tile; groups that run as one.
FUSED_SHAPES = (
    (2, 144, 5, 21, 72, (3, 3), 2, 2),
    (1, 65, 9, 8, 200, (4, 5), 1, 1),
    (37, 64, 1, 2, 64, (2, 2), 1, 1),
    (2, 80, 6, 9, 48, (2, 2), 16, 1),
)
# In f32 without TF32, forward: a weight that takes more than 16 MiB in two parts.
LARGE_WEIGHT = (1, 520, 3, 2, 512, (3, 3), 1, 1)
# Its backward pass, beside those: short and long lists of samples that land on a pixel.
LANDINGS = (
    ((1, 64, 24, 25, 64, (3, 3), 1, 1), {"clustered": True}),
    ((2, 64, 11, 14, 40, (3, 3), 1, 1), {"stride": 2}),
)
# What initcheck sees of the scatter: any call, and one that is usual.
SCATTERED_BRIEFLY = (SHAPES[1], SHAPES[4])
# Gradients asked for: all, those of a frozen weight, of fixed offsets, of a first layer, of one.
WANTED = (
    (True, True, True, True, True),
    (True, False, True, True, False),
    (True, True, False, False, True),
    (False, True, True, True, True),
    (True, False, False, False, False),
    (False, True, False, False, False),
    (False, False, False, True, False),
)


def make_leaves(shape, dtype: torch.dtype, channels_last: bool, stride=1, clustered=False):
    """Input, offset, weight, bias, mask, and an incoming gradient."""
    n, c, h, w, k, (r, s), groups, offset_groups = shape
    pad = (r // 2, s // 2)
    p, q = (h + 2 * pad[0] - r) // stride + 1, (w + 2 * pad[1] - s) // stride + 1
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, device="cuda")

    offset = normal(n, 2 * offset_groups * r * s, p, q) * 2
    if clustered:
        offset = clustered_offsets(offset.tanh(), (r, s), stride, pad, 1, (h // 2, w // 2))
    offset.view(-1)[::97] = float("nan")
    offset.view(-1)[1::89] = 1e30
    leaves = [
        normal(n, c, h, w).to(dtype, memory_format=layout),
        offset.to(dtype),
        normal(k, c // groups, r, s).to(dtype, memory_format=layout),
        normal(k).to(dtype),
        torch.rand(n, offset_groups * r * s, p, q, device="cuda").to(dtype),
    ]
    return leaves, normal(n, k, p, q).to(dtype, memory_format=layout)


def run_one(shape, dtype: torch.dtype, channels_last: bool, backward: bool = True) -> None:
    leaves, grad = make_leaves(shape, dtype, channels_last)
    for leaf in leaves:
        leaf.requires_grad_()
    pad = tuple(size // 2 for size in shape[5])
    out = dcn.deform_conv2d(*leaves[:4], padding=pad, mask=leaves[4])
    bare = dcn.deform_conv2d(*leaves[:3], padding=pad)  # neither mask nor bias
    if backward:
        torch.autograd.grad(out, leaves, grad)
        torch.autograd.grad(bare, leaves[2], grad)


def describe(shape, dtype: torch.dtype, tf32: bool, stride: int = 1):
    """The shapes and options of a call, as `dcn.plan` takes them."""
    n, c, h, w, k, (r, s), groups, offset_groups = shape
    options = {"stride": stride, "padding": (r // 2, s // 2), "offset_groups": offset_groups}
    options |= {"dtype": dtype, "tf32": tf32}
    return ((n, c, h, w), (k, c // groups, r, s)), options


def fused_choices(shape, dtype: torch.dtype, tf32: bool, tiles, device: str = "h200"):
    """The (tile, split_k) that the plan accepts."""
    shapes, options = describe(shape, dtype, tf32)
    accepted = []
    for tile, split_k in itertools.product(tiles, SPLITS):
        forced = {"algorithm": "fused", "tile": tile, "split_k": split_k}
        try:
            dcn.plan(*shapes, **options, **forced, device=device)
        except ValueError:
            continue
        accepted.append((tile, split_k))
    return accepted


def run_fused_forward(shape, dtype: torch.dtype, channels_last: bool, tf32: bool, args) -> int:
    """Returns the number of calls, as the others do."""
    torch.backends.cudnn.allow_tf32 = tf32
    chosen = fused_choices(shape, dtype, tf32, args.tiles or TILES)
    if args.without_elected:
        theirs = fused_choices(shape, dtype, tf32, TILES, device="a100")
        chosen = [each for each in chosen if each not in theirs]
    for tile, split_k in chosen:
        with dcn.force_algorithm("fused", tile=tile, split_k=split_k):
            run_one(shape, dtype, channels_last, backward=False)
    return len(chosen)


def run_large_weight(channels_last: bool) -> int:
    torch.backends.cudnn.allow_tf32 = False
    with dcn.force_algorithm("fused"):
        run_one(LARGE_WEIGHT, torch.float32, channels_last, backward=False)
    return 1


def run_fused_backward(
    shape, dtype: torch.dtype, channels_last: bool, tf32: bool, args, stride=1, **more
) -> int:
    """Where fused has one."""
    torch.backends.cudnn.allow_tf32 = tf32
    calls = 0
    groups = shape[6:]
    padding = [size // 2 for size in shape[5]]
    shapes, options = describe(shape, dtype, tf32, stride)
    (input, offset, weight, _, mask), grad = make_leaves(
        shape, dtype, channels_last, stride, **more
    )
    several = [(offset, None), (offset.float(), mask.float()), (offset.float(), mask)]
    for wanted in WANTED:
        asked = options | {"pass_": "backward", "output_mask": wanted}
        if dcn.why_not("fused", *shapes, **asked):
            continue
        scattered = "scattered" in str(dcn.plan(*shapes, **asked, algorithm="fused", device="h200"))
        brief = args.scatter_in_brief and scattered
        if brief and (wanted != WANTED[0] or shape not in SCATTERED_BRIEFLY or channels_last):
            continue
        for sampling in [(offset, mask), *(several if all(wanted) and not brief else ())]:
            with dcn.force_algorithm("fused"):
                torch.ops.dcn.deform_conv2d_backward(
                    grad, input, weight, *sampling,
                    [stride] * 2, padding, [1, 1], *groups, wanted,
                )  # fmt: skip
            calls += 1
    return calls


def fused_pieces(dtype: torch.dtype, args) -> Iterator[Callable[[], int]]:
    if dtype == torch.float64 or torch.cuda.get_device_capability()[0] != 9:
        return
    # f32 runs in both of its arithmetics.
    arithmetics = (False, True) if dtype == torch.float32 else (False,)
    for channels_last, tf32 in itertools.product((False, True), arithmetics):
        how = (dtype, channels_last, tf32)
        for shape in SHAPES + FUSED_SHAPES:
            if not args.backward_alone:
                yield partial(run_fused_forward, shape, *how, args)
            if not args.tiles:
                yield partial(run_fused_backward, shape, *how, args)
        alone = args.backward_alone or args.tiles or args.without_elected
        if dtype == torch.float32 and not tf32 and not alone:
            yield partial(run_large_weight, channels_last)
        for shape, more in () if args.tiles else LANDINGS:
            yield partial(run_fused_backward, shape, *how, args, **more)


def run_others(shape, dtype: torch.dtype, channels_last: bool) -> int:
    """What the plan takes backward, and im2col_gemm cut into many chunks, its input gradient by
    atomics and in fixed point."""
    run_one(shape, dtype, channels_last)
    with dcn.force_algorithm("im2col_gemm", lanes=2, chunk_pixels=37):
        run_one(shape, dtype, channels_last)
        in_deterministic_mode(partial(run_one, shape, dtype, channels_last))()
    return 6


def run_all(args) -> None:
    torch.manual_seed(0)
    dtype = getattr(torch, args.inside)
    pieces = list(fused_pieces(dtype, args))
    if not args.fused_alone:
        for shape, channels_last in itertools.product(SHAPES, (False, True)):
            pieces.append(partial(run_others, shape, dtype, channels_last))
    share, shares = args.share
    calls = 0
    for piece in pieces[share::shares]:
        calls += piece()
    torch.cuda.synchronize()
    print(f"ran {calls} calls", flush=True)


def sanitize(share: str, tool: str, dtype: str, part: list[str], shares: int) -> dict:
    """`part` of the command line says what runs; all if empty."""
    fused_alone = bool(part) or (tool == "initcheck" and dtype != "float64")
    # The caching allocator would hide accesses beyond a tensor inside its larger blocks.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    if tool == "initcheck":
        environment["CUDA_LAUNCH_BLOCKING"] = "1"
    command = [
        "compute-sanitizer",
        "--tool",
        tool,
        "--error-exitcode",
        "1",
        sys.executable,
        __file__,
        "--inside",
        dtype,
        *("--share", share, str(shares)),
        *(["--fused-alone"] if fused_alone else []),
        *(["--without-elected"] if tool == "racecheck" and not part else []),
        *(["--scatter-in-brief"] if tool == "initcheck" else []),
        *part,
    ]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    summary = re.findall(r"(ERROR SUMMARY|RACECHECK SUMMARY): (.*)", result.stdout)
    ran = re.findall(r"ran (\d+) calls", result.stdout)
    failed = int(result.returncode != 0 or not summary or not ran)
    if failed:
        print(result.stdout[:3000], result.stderr[-500:], file=sys.stderr)
    text = " ".join(match[1] for match in summary)
    calls = int(ran[0]) if ran else 0
    print(
        f"{tool:10} {dtype:9} {share} of {shares}: exit {failed}, {calls} calls, {text}", flush=True
    )
    row = {"tool": tool, "dtype": dtype, "share": f"{share} of {shares}", "exit": failed}
    row |= {"summary": text, "calls": calls, "fused_alone": fused_alone}
    return row | {"part": " ".join(part)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, help="where to write the summaries, as JSON")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--tiles", nargs="+", type=int, help="these of fused's, forward, alone")
    parser.add_argument("--backward-alone", action="store_true", help="of fused, nothing else")
    parser.add_argument("--shares", type=int, default=1, help="processes per tool and dtype")
    parser.add_argument("--commit", help="what is checked, where git is not there to say so")
    parser.add_argument("--inside", metavar="DTYPE", help=argparse.SUPPRESS)
    parser.add_argument("--share", nargs=2, type=int, default=(0, 1), help=argparse.SUPPRESS)
    parser.add_argument("--fused-alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--without-elected", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--scatter-in-brief", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        run_all(args)
        return 0
    part = ["--tiles", *map(str, args.tiles)] if args.tiles else []
    part += ["--backward-alone"] if args.backward_alone else []
    dtypes = [dtype for dtype in args.dtypes if not part or dtype != "float64"]
    shares = map(str, range(args.shares))
    jobs = list(itertools.product(shares, reversed(args.tools), dtypes))  # initcheck takes longest
    stamp = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "commit": measured_commit(Path(__file__).parent, args.commit),
    }
    rows = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in as_completed([pool.submit(sanitize, *job, part, args.shares) for job in jobs]):
            rows.append(done.result() | stamp)
            if args.out:  # the rest may outlast the time there is
                args.out.write_text(json.dumps(rows, indent=1) + "\n")
    return max(row["exit"] for row in rows)


if __name__ == "__main__":
    sys.exit(main())
