"""What the tests of `fused` share: calls that reach each branch of its kernels, and its tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from cases import Case
from pytorch_ops import columns_of
from pytorch_ops import deform_conv2d as pytorch_deform_conv2d
from torch import Tensor

import dcn
from dcn import _C, planning

HAS_GPU = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="no GPU of compute capability 9.x here")

LAYOUTS = (torch.channels_last, torch.contiguous_format)


@dataclass(frozen=True)
class Arithmetic:
    """A dtype of a call; tf32 is one of its own."""

    name: str
    dtype: torch.dtype
    tf32: bool = False

    @property
    def wide(self) -> bool:
        return self.dtype == torch.float32


ARITHMETICS = [
    Arithmetic("f16", torch.float16),
    Arithmetic("bf16", torch.bfloat16),
    Arithmetic("tf32", torch.float32, tf32=True),
    Arithmetic("f32", torch.float32),
]
EACH_ARITHMETIC = pytest.mark.parametrize("kind", ARITHMETICS, ids=lambda kind: kind.name)


def pixels(name: str, n: int, *size: int, **more) -> Case:
    """Tails of gemm_m: tiles of 64 to 256 pixels go through an image in cells 16 wide."""
    return Case(name, n=n, c=64, size=size, k=64, **more)


def channels(c: int, d: int = 1, g: int = 1, k: int = 0, **more) -> Case:
    size = more.pop("size", (9, 13))
    name = more.pop("name", f"C {c}, D {d}, G {g}")
    return Case(name, c=c, offset_groups=d, groups=g, k=k or 8 * g, size=size, **more)


def kernel(r: int, s: int, c: int, **more) -> Case:
    """Samples are planned for 9 taps at a time: larger kernels need several plans."""
    more = {"padding": (r // 2, s // 2), "size": (11, 12), "k": 24, "n": 2} | more
    return Case(f"{r}x{s} of {c} channels", c=c, kernel=(r, s), **more)


FUSED_CASES = [
    # gemm_m: whole cells, narrow and low last cells, fewer pixels than a warp has rows.
    pixels("one tile", 1, 4, 16),
    pixels("whole cells", 2, 16, 32),
    pixels("a cell and a bit", 1, 5, 17),
    pixels("a low strip", 2, 19, 16),
    pixels("a narrow cell", 1, 16, 33),
    pixels("narrow and low cells", 3, 9, 47),
    pixels("one column", 1, 65, 1),
    pixels("one row", 1, 1, 129, kernel=(1, 3), padding=(0, 1)),
    pixels("two rows", 2, 2, 100),
    pixels("tiles across images", 5, 3, 5),
    pixels("warps across images", 23, 2, 3),
    pixels("images of one pixel", 70, 1, 1),
    pixels("one pixel", 1, 1, 1),
    Case("CTAs with several tiles", n=3, c=40, size=(128, 113), k=24),
    # gemm_n: tiles of 64 to 256 output channels; vectors of 8 need K/G to be a multiple of 8.
    *(channels(64, k=k, name=f"K {k}") for k in (1, 2, 7, 8, 63, 64, 65, 100, 128, 200, 256, 320)),
    # gemm_k: padded channels, short last slices.
    *(channels(c, k=17) for c in (1, 3, 7, 8, 20, 31, 33, 40, 65, 96, 130, 200)),
    # Offset groups: narrower than a slice, as wide, wider, and with short last slices.
    *(channels(4 * d, d) for d in (2, 16)),
    channels(24, 4), channels(128, 16), channels(16, 2), channels(20, 2), channels(30, 2),
    channels(64, 4), channels(64, 2), channels(128, 4), channels(128, 2), channels(256, 4, k=65),
    channels(30, 5), channels(80, 8, k=100), channels(60, 4), channels(128, 8), channels(128, 32),
    channels(192, 2), channels(140, 2), channels(260, 2, k=40), channels(1040, 16, size=(5, 6)),
    # Convolution groups; the last tile of each group's output channels is short.
    channels(128, g=2, k=130), channels(96, g=3), channels(192, g=3, k=33), channels(128, g=32),
    channels(130, g=2, k=14), channels(6, g=3, k=6), channels(24, g=24, k=24),
    channels(24, g=24, k=48, bias=False),
    # So small ones that several run as one: an offset group is of one, or of several of them.
    channels(256, g=32), channels(128, g=128, k=128), channels(64, g=64, k=128),
    channels(320, g=32, k=96), channels(60, g=4, k=44, size=(40, 50)), channels(256, 4, 32),
    channels(64, 8, 16, k=64), channels(36, 6, 12, k=24), channels(96, 4, 32, k=64, n=1),
    kernel(7, 7, 64, groups=16, k=32, n=1), kernel(1, 1, 130, groups=26, k=26),
    # Both: nested either way, equal, and neither dividing the other.
    channels(128, 2, 2), channels(256, 4, 2, k=70), channels(128, 2, 4), channels(128, 4, 32),
    channels(140, 2, 2, k=6), channels(384, 3, 2), channels(384, 2, 3), channels(768, 4, 6),
    channels(12, 3, 2), channels(30, 2, 3), channels(48, 4, 6), channels(64, 64, 1, mask=False),
    # Kernels.
    kernel(1, 1, 64), kernel(1, 1, 130, offset_groups=2), kernel(2, 3, 65), kernel(5, 1, 64),
    kernel(2, 2, 40), kernel(1, 10, 64), kernel(4, 4, 96, groups=2), kernel(7, 7, 20, n=1),
    kernel(7, 7, 130, n=1, size=(8, 8)), kernel(7, 7, 256, n=1, offset_groups=2, size=(7, 9)),
    kernel(3, 6, 144, offset_groups=2, groups=2),
    # Weights of more than 16 MiB in two parts, which 3xTF32 splits on the chip.
    channels(512, k=520), channels(576, 36, k=420, size=(5, 7)), kernel(1, 1, 1024, k=2100),
    # Stride, padding, dilation, of both axes.
    Case("stride 2", c=64, size=(17, 22), k=64, stride=(2, 2)),
    Case("stride 1, 3", c=40, size=(9, 31), k=10, stride=(1, 3), padding=(0, 2)),
    Case("dilation 2", c=64, size=(12, 15), k=32, padding=(2, 2), dilation=(2, 2)),
    Case("dilation 3, 1", c=96, size=(15, 9), k=20, padding=(3, 0), dilation=(3, 1)),
    Case("all apart", c=72, size=(21, 18), k=48, kernel=(2, 3), stride=(3, 2), padding=(1, 4),
         dilation=(2, 3)),
    Case("padding beyond the kernel", c=64, size=(4, 5), k=16, padding=(5, 4)),
    Case("smaller than the kernel", n=6, c=64, size=(2, 2), k=16),
    # Without mask, without bias.
    Case("v1", c=64, size=(11, 10), k=64, mask=False),
    Case("no bias", c=64, size=(11, 10), k=64, bias=False),
    Case("v1, no bias, groups", c=128, size=(8, 9), k=66, mask=False, bias=False, groups=2,
         offset_groups=2),
]  # fmt: skip
EACH_CASE = pytest.mark.parametrize("case", FUSED_CASES, ids=lambda case: case.name)

# A few that between them have every kind of tail; for tests of anything but values.
STURDY = Case("sturdy", n=3, c=144, size=(9, 21), k=72, groups=2, offset_groups=2)
SMALL = Case("small", n=2, c=64, size=(16, 16), k=64)
LARGE_KERNEL = Case("large kernel", n=1, c=65, size=(13, 12), k=100, kernel=(4, 5), padding=(2, 2))
NARROW = Case("narrow offset groups", n=2, c=48, size=(13, 35), k=40, offset_groups=6)
MERGED = Case("merged groups", n=2, c=120, size=(11, 21), k=96, groups=24)
FEW = [STURDY, SMALL, LARGE_KERNEL, NARROW, MERGED]


def shapes(case: Case) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (case.n, case.c, *case.size), (case.k, case.c // case.groups, *case.kernel)


def options(case: Case, kind: Arithmetic) -> dict:
    return case.geometry | {
        "offset_groups": case.offset_groups, "dtype": kind.dtype, "tf32": kind.tf32,
    }  # fmt: skip


def why_not_fused(case: Case, kind: Arithmetic) -> str:
    return dcn.why_not("fused", *shapes(case), **options(case, kind))


MOST_TILES, MOST_PARTS = 24, 7  # asked for; there are fewer


def forced_plan(case: Case, kind: Arithmetic, tile: int, split_k: int, **more) -> _C.Plan | None:
    """The plan of a forced tile and split; none where the shape has no such tile."""
    forced = {"algorithm": "fused", "tile": tile, "split_k": split_k}
    try:
        return dcn.plan(*shapes(case), **options(case, kind), **forced, **more)
    except ValueError as reason:
        if "no such tile" not in str(reason):
            raise
        return None


def packed_sizes(case: Case, kind: Arithmetic) -> list[int]:
    """Of the weight packed for all calls of this shape and arithmetic."""
    return _C.packed_sizes(planning._request(*shapes(case), **options(case, kind)))


def sm80_tiles(case: Case, kind: Arithmetic) -> list[int]:
    """Tiles of fprop_sm80, which are all that other devices have; an H200 runs them when forced."""
    forced = (forced_plan(case, kind, tile, 1, device="a100") for tile in range(MOST_TILES))
    return [each.tile for each in forced if each is not None]


def choices(case: Case, kind: Arithmetic) -> list[tuple[int, int]]:
    """Every (tile, split_k) that the plan accepts. Skips a call that is not for fused."""
    reason = why_not_fused(case, kind)
    if reason:
        pytest.skip(reason)
    every = [(t, s) for t in range(MOST_TILES) for s in range(1, MOST_PARTS + 1)]
    accepted = [each for each in every if forced_plan(case, kind, *each) is not None]
    assert accepted, "legal, but without a tile"
    return accepted


@contextmanager
def tf32_as(kind: Arithmetic) -> Iterator[None]:
    """The convolution's switch, around calls of ours alone."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32" if kind.tf32 else "ieee"
    try:
        yield
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that a call allocates holds NaN, or bytes of 255: PyTorch's deterministic mode."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def draw(case: Case, kind: Arithmetic, **more) -> dict[str, Tensor | None]:
    return case.tensors(kind.dtype, "cuda", **more)


def in_layout(tensors: dict[str, Tensor | None], layout) -> dict[str, Tensor | None]:
    return tensors | {"input": tensors["input"].contiguous(memory_format=layout)}


def run(case: Case, kind: Arithmetic, tensors, tile: int = -1, split_k: int = 0) -> Tensor:
    """The output of a forced tile; asserts that it ran."""
    with tf32_as(kind), dcn.force_algorithm("fused", tile=tile, split_k=split_k):
        out = dcn.deform_conv2d(**tensors, **case.geometry)
    plan = dcn.last_plan()
    assert plan.algorithm == "fused"
    assert tile < 0 or plan.tile == tile
    assert split_k < 1 or plan.split_k == split_k
    return out


def reference(case: Case, tensors: dict[str, Tensor | None]) -> Tensor:
    """In float64, from the same values."""
    wide = {name: None if value is None else value.double() for name, value in tensors.items()}
    return dcn.reference.deform_conv2d(**wide, **case.geometry)


def largest_error(value: Tensor, truth: Tensor) -> float:
    return (value.double() - truth).abs().amax().item()


def mean_error(value: Tensor, truth: Tensor) -> float:
    """The root of the mean square."""
    return (value.double() - truth).square().mean().sqrt().item()


def relative_error(value: Tensor, truth: Tensor) -> float:
    """L2, of the whole tensor."""
    return ((value.double() - truth).norm() / truth.norm()).item()


def one_by_one(case: Case, tensors: dict[str, Tensor | None]) -> Tensor:
    """Products added one after another, as the multiply-adds of a float32 convolution are."""
    columns = columns_of(case, tensors).reshape(case.n, case.groups, -1, *case.output_size)
    columns = columns.movedim(0, 2).flatten(2)  # [G, C/G*R*S, N*P*Q]
    weight = tensors["weight"].reshape(case.groups, case.k // case.groups, -1)
    out = columns.new_zeros(case.groups, weight.shape[1], columns.shape[2])
    for i in range(columns.shape[1]):
        out.addcmul_(weight[:, :, i, None], columns[:, None, i])
    if tensors["bias"] is not None:
        out += tensors["bias"].reshape(case.groups, -1, 1)
    return out.reshape(case.k, case.n, *case.output_size).movedim(0, 1)


def judge(case: Case, kind: Arithmetic, tensors, truth: Tensor) -> Callable[[Tensor], float]:
    """Gives an output's error as a share of what is allowed: twice PyTorch's, which counts as half
    an ulp of the largest value at least (as in test_values).

    In float32 the largest error is a matter of luck, and the order of summation is most of all
    errors: there the plainest order counts too, and the error is L2, the largest only bounded by
    four times theirs.
    """
    theirs = [pytorch_deform_conv2d(case, tensors, kind.tf32, flip) for flip in (False, True)]
    f32 = kind.name == "f32"
    if f32:
        theirs.append(one_by_one(case, tensors))
    half_an_ulp = 0.5 * torch.finfo(kind.dtype).eps * truth.abs().amax().item()

    def allowed(measure: Callable[[Tensor, Tensor], float], times: float) -> float:
        return times * max(half_an_ulp, *(measure(value, truth) for value in theirs))

    largest = allowed(largest_error, 4 if f32 else 2)
    mean = allowed(mean_error, 2) if f32 else math.inf

    def share(out: Tensor) -> float:
        shares = largest_error(out, truth) / largest, mean_error(out, truth) / mean
        return max(shares) if all(map(math.isfinite, shares)) else math.inf

    return share
