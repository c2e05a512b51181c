"""The calls that tests share: from layers that people run to the corners of the definition."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAVES = ("input", "weight", "offset", "mask", "bias")  # the order of the operators' arguments


@dataclass(frozen=True)
class Case:
    """One geometry; `tensors()` and `geometry` make a call of `dcn.deform_conv2d` from it."""

    name: str
    n: int = 2
    c: int = 4
    size: tuple[int, int] = (7, 6)
    k: int = 6
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    offset_groups: int = 1
    mask: bool = True
    bias: bool = True

    @property
    def output_size(self) -> tuple[int, ...]:
        axes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((h + 2 * pad - dil * (r - 1) - 1) // st + 1 for h, r, st, pad, dil in axes)

    @property
    def geometry(self) -> dict[str, tuple[int, int]]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    def arguments(self, tensors: dict[str, Tensor | None]) -> tuple:
        """What `torch.ops.dcn.deform_conv2d` takes, in its order."""
        groups = (self.groups, self.offset_groups)
        return (*(tensors[name] for name in LEAVES), *self.geometry.values(), *groups)

    def backward_arguments(self, grad: Tensor, tensors: dict[str, Tensor | None]) -> tuple:
        """What `torch.ops.dcn.deform_conv2d_backward` takes, up to `output_mask`."""
        arguments = self.arguments(tensors)
        return (grad, *arguments[:4], *arguments[5:])

    def tensors(
        self,
        dtype: torch.dtype = torch.float64,
        device: str = "cpu",
        requires_grad: bool = False,
        offset_dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> dict[str, Tensor | None]:
        """The same numbers for every dtype and device, others for each seed.

        Positions keep 0.1 px from the integers, where the derivative jumps, and reach over the
        image's border.
        """
        generator = torch.Generator().manual_seed(seed)
        taps = self.offset_groups * self.kernel[0] * self.kernel[1]
        offset = (self.n, 2 * taps, *self.output_size)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64)

        tensors = {
            "input": uniform(self.n, self.c, *self.size) - 0.5,
            "offset": (uniform(*offset) * 5 - 3).round() + uniform(*offset) * 0.8 + 0.1,
            "weight": uniform(self.k, self.c // self.groups, *self.kernel) - 0.5,
            "bias": uniform(self.k) if self.bias else None,
            "mask": uniform(self.n, taps, *self.output_size) if self.mask else None,
        }
        dtypes = {"offset": offset_dtype or dtype, "mask": offset_dtype or dtype}
        return {
            name: None
            if tensor is None
            else tensor.to(device, dtypes.get(name, dtype)).requires_grad_(requires_grad)
            for name, tensor in tensors.items()
        }


CASES = [
    Case("plain"),
    Case("v1", mask=False, bias=False),
    Case("stride", stride=(2, 1), padding=(0, 1), size=(9, 6)),
    Case("dilation", dilation=(1, 2), padding=(1, 2)),
    Case("1x1", kernel=(1, 1), padding=(0, 0)),
    Case("2x3", kernel=(2, 3), padding=(1, 0)),
    Case("5x1", kernel=(5, 1), padding=(2, 0), stride=(2, 2)),
    Case("7x7", kernel=(7, 7), padding=(3, 3), n=1, c=2, k=3),
    Case("groups", c=6, groups=3, offset_groups=2),
    Case("depthwise", c=6, groups=6, bias=False),
    Case("offset groups", c=12, k=4, offset_groups=4, groups=2),
    Case("channel per offset group", c=5, k=3, offset_groups=5, mask=False),
    Case("one pixel", n=1, size=(1, 1)),
    Case("smaller than the kernel", size=(2, 2), n=3),
    Case("padding beyond the kernel", padding=(4, 3), n=1),
    Case("no images", n=0),
    # Channels per offset group: vector loads end within a group unless it is a multiple of 4 or 8.
    Case("16 groups of 4", c=64, k=8, offset_groups=16, n=1),
    Case("4 groups of 6", c=24, k=10, offset_groups=4, size=(5, 9)),
    Case("16 groups of 8", c=128, k=16, offset_groups=16, n=1, size=(6, 11)),
    Case("2 groups of 10", c=20, k=7, offset_groups=2, groups=1),
    Case("2 groups of 15", c=30, k=9, offset_groups=2, groups=3),
    Case("4 groups of 16", c=64, k=33, offset_groups=4, size=(5, 5)),
    Case("1 group of 64", c=64, k=64, n=3, size=(9, 13)),
    Case("2 groups of 64", c=128, k=24, offset_groups=2, n=1, mask=False),
    # Convolution groups, also where they and the offset groups do not nest.
    Case("32 groups", c=64, k=32, groups=32, offset_groups=4),
    Case("2 groups across 3", c=12, k=6, groups=2, offset_groups=3),
    # Batches and maps that no tile divides.
    Case("7 images", n=7, size=(5, 8), stride=(1, 2)),
    Case("odd map", n=3, c=9, k=5, size=(17, 33), bias=False),
    Case("one row", n=2, c=8, size=(1, 41), kernel=(1, 5), padding=(0, 2)),
    Case("stride 3", c=8, size=(13, 10), stride=(3, 2), padding=(2, 1), dilation=(2, 1)),
]

# What may run a call on each device.
ALGORITHMS = {"cpu": ("cpu",), "cuda": ("im2col_gemm",)}

# Dtype of the call, and of offset and mask beside it.
DTYPES = {
    "f64": (torch.float64, torch.float64),
    "f32": (torch.float32, torch.float32),
    "f16": (torch.float16, torch.float16),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "f16 with f32 offsets": (torch.float16, torch.float32),
    "bf16 with f32 offsets": (torch.bfloat16, torch.float32),
}


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def requested_bytes(which: str) -> int:
    """Of device memory, at the moment ("current") or at most ("peak"). What PyTorch's allocator
    calls allocated are the blocks that it hands out: up to a MiB larger, by what was freed before.
    """
    return torch.cuda.memory_stats()[f"requested_bytes.all.{which}"]
