"""Runs every CUDA kernel under compute-sanitizer: memcheck, racecheck and initcheck.

    python bench/sanitize.py --out bench/results/sanitizer.json

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import dcn
from dcn import _C, planning

DTYPES = ("float64", "float32", "float16", "bfloat16")
# initcheck does not see what cuBLAS stores with the bulk copy engine, as it does in all dtypes but
# f64, and reports each read of it. So in the others it sees `fused` alone, which calls no cuBLAS;
# tests/test_cuda.py poisons memory, in every dtype.
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


def run_one(shape, dtype: torch.dtype, channels_last: bool, backward: bool = True) -> None:
    n, c, h, w, k, (r, s), groups, offset_groups = shape
    pad = (r // 2, s // 2)
    p, q = h + 2 * pad[0] - r + 1, w + 2 * pad[1] - s + 1
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, device="cuda")

    offset = normal(n, 2 * offset_groups * r * s, p, q) * 2
    offset.view(-1)[::97] = float("nan")
    offset.view(-1)[1::89] = 1e30
    leaves = [
        normal(n, c, h, w).to(dtype, memory_format=layout),
        offset.to(dtype),
        normal(k, c // groups, r, s).to(dtype, memory_format=layout),
        normal(k).to(dtype),
        torch.rand(n, offset_groups * r * s, p, q, device="cuda").to(dtype),
    ]
    for leaf in leaves:
        leaf.requires_grad_()
    out = dcn.deform_conv2d(*leaves[:4], padding=pad, mask=leaves[4])
    bare = dcn.deform_conv2d(*leaves[:3], padding=pad)  # neither mask nor bias
    if backward:
        torch.autograd.grad(out, leaves, normal(n, k, p, q).to(dtype))
        torch.autograd.grad(bare, leaves[2], normal(n, k, p, q).to(dtype))


def fused_choices(shape, dtype: torch.dtype, tf32: bool) -> list[tuple[int, int]]:
    """The (tile, split_k) that the plan accepts."""
    n, c, h, w, k, (r, s), groups, offset_groups = shape
    request = planning._request(
        (n, c, h, w), (k, c // groups, r, s),
        padding=(r // 2, s // 2), offset_groups=offset_groups, dtype=dtype, tf32=tf32,
    )  # fmt: skip
    accepted = []
    for tile, split_k in itertools.product(TILES, SPLITS):
        request.forced = _C.ForcedPlan("fused", tile=tile, split_k=split_k)
        try:
            _C.make_plan(request)
        except ValueError:
            continue
        accepted.append((tile, split_k))
    return accepted


def run_fused(shape, dtype: torch.dtype, channels_last: bool) -> int:
    """Forward alone; f32 in both of its arithmetics. Returns the number of calls."""
    calls = 0
    for tf32 in (False, True) if dtype == torch.float32 else (False,):
        torch.backends.cudnn.allow_tf32 = tf32
        for tile, split_k in fused_choices(shape, dtype, tf32):
            with dcn.force_algorithm("fused", tile=tile, split_k=split_k):
                run_one(shape, dtype, channels_last, backward=False)
            calls += 1
    return calls


def run_all(dtype: torch.dtype, fused_alone: bool) -> None:
    torch.manual_seed(0)
    calls = 0
    fused = dtype != torch.float64 and torch.cuda.get_device_capability()[0] == 9
    for shape in SHAPES:
        for channels_last in (False, True):
            if fused:
                calls += run_fused(shape, dtype, channels_last)
            if fused_alone:
                continue
            run_one(shape, dtype, channels_last)
            with dcn.force_algorithm("im2col_gemm", lanes=2, chunk_pixels=37):
                run_one(shape, dtype, channels_last)
            calls += 2
    torch.cuda.synchronize()
    print(f"ran {calls} calls", flush=True)


def sanitize(job: tuple[str, str]) -> dict:
    tool, dtype = job
    fused_alone = tool == "initcheck" and dtype != "float64"
    # The caching allocator would hide accesses beyond a tensor inside its larger blocks.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
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
        *(["--fused-alone"] if fused_alone else []),
    ]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    summary = re.findall(r"(ERROR SUMMARY|RACECHECK SUMMARY): (.*)", result.stdout)
    if not summary or "ran " not in result.stdout:
        print(result.stdout[:2000], result.stderr[-500:], file=sys.stderr)
    text = " ".join(match[1] for match in summary)
    print(f"{tool:10} {dtype:9} exit {result.returncode}: {text}", flush=True)
    row = {"tool": tool, "dtype": dtype, "exit": result.returncode, "summary": text}
    return row | {"ran": re.findall(r"ran .*", result.stdout)[:1], "fused_alone": fused_alone}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, help="where to write the summaries, as JSON")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--inside", metavar="DTYPE", help=argparse.SUPPRESS)
    parser.add_argument("--fused-alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        run_all(getattr(torch, args.inside), args.fused_alone)
        return 0
    jobs = [(tool, dtype) for tool in args.tools for dtype in DTYPES]
    with ThreadPoolExecutor(len(jobs)) as pool:
        rows = list(pool.map(sanitize, jobs))
    if args.out:
        stamp = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        args.out.write_text(json.dumps([row | stamp for row in rows], indent=1) + "\n")
    return max(row["exit"] for row in rows)


if __name__ == "__main__":
    sys.exit(main())
