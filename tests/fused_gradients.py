"""What the tests of `fused`'s backward pass share: calls of it, and how far they may be off.

Where `why_not` has a reason against it, the plan's own choice runs instead: values must be right
all the same, only the same bits are not asked of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from cases import LEAVES, Case
from fused_cases import (
    Arithmetic,
    draw,
    largest_error,
    mean_error,
    options,
    shapes,
    tf32_as,
)
from pytorch_ops import by_group, gradients
from pytorch_ops import deform_conv2d as pytorch_deform_conv2d
from torch import Tensor
from torch.nn import functional

import dcn
from dcn import reference

Tensors = dict[str, Tensor | None]
Drawing = Callable[[int], tuple[Tensors, Tensor]]  # from a seed: the arguments and grad_out


def given(tensors: Tensors) -> tuple[str, ...]:
    return tuple(name for name in LEAVES if tensors[name] is not None)


def gradient_of_output(case: Case, kind: Arithmetic, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    grad = torch.randn(case.n, case.k, *case.output_size, generator=generator)
    return grad.to("cuda", kind.dtype)


def whole_1024ths(offset: Tensor) -> Tensor:
    """Their sums with pixels are exact in float32, so that no sample comes to lie on the other side
    of an integer than in float64: derivatives jump there.
    """
    return ((offset.float() * 1024).round() / 1024).to(offset.dtype)


def drawing(case: Case, kind: Arithmetic, change=lambda tensors: tensors, **more) -> Drawing:
    """`change` makes other arguments of the case's own."""

    def drawn(seed: int) -> tuple[Tensors, Tensor]:
        return change(draw(case, kind, seed=seed, **more)), gradient_of_output(case, kind, seed)

    return drawn


def why_not_backward(case: Case, kind: Arithmetic, names=LEAVES, **more) -> str:
    wanted = [name in names for name in LEAVES]
    request = options(case, kind) | {"pass_": "backward", "output_mask": wanted} | more
    return dcn.why_not("fused", *shapes(case), **request)


def run_backward(
    case: Case, kind: Arithmetic, tensors, grad, names=LEAVES, algorithm: str = "fused"
) -> Tensors:
    """The gradients of `names` by name, of `fused` where it can; asserts that it ran."""
    names = [name for name in names if tensors[name] is not None]
    wanted = [name in names for name in LEAVES]
    with tf32_as(kind), dcn.force_algorithm(algorithm):
        values = torch.ops.dcn.deform_conv2d_backward(
            *case.backward_arguments(grad, tensors), wanted
        )
    mode = torch.are_deterministic_algorithms_enabled()
    legal = algorithm == "fused" and not why_not_backward(case, kind, names, deterministic=mode)
    assert (dcn.last_plan().algorithm == "fused") == legal
    for name, value in zip(LEAVES, values, strict=True):
        if name not in names:
            assert value.numel() == 0, f"{name} was not asked for"
        else:
            assert value.dtype == tensors[name].dtype, name
            assert value.shape == tensors[name].shape, name
    return {name: value for name, value in zip(LEAVES, values, strict=True) if name in names}


def repeatable(case: Case, kind: Arithmetic, tensors: Tensors, names=LEAVES) -> list[str]:
    """Those of the gradients whose bits are the same each run outside of deterministic mode, too:
    fused's, unless it scatters.
    """
    given_names = [name for name in names if tensors[name] is not None]
    legal = not why_not_backward(case, kind, given_names, deterministic=True)
    return [name for name in given_names if legal or name != "input"]


@contextmanager
def leftovers(blocks: int = 24) -> Iterator[None]:
    """Memory that a call allocates holds NaN, outside of deterministic mode too: a pool of its own,
    filled and given back.
    """
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        for size in (64 << 20, 1 << 19):
            filled = [
                torch.full((size,), 255, dtype=torch.uint8, device="cuda")
                for _ in range(1 if size > 1 << 20 else blocks)
            ]
            del filled
        yield


def leaves_of(tensors: Tensors, dtype: torch.dtype | None = None) -> Tensors:
    return {
        name: None if value is None else value.detach().to(dtype or value.dtype).requires_grad_()
        for name, value in tensors.items()
    }


def reference_gradients(case: Case, tensors: Tensors, grad: Tensor) -> Tensors:
    """In float64, by autograd, from the same values."""
    leaves = leaves_of(tensors, torch.float64)
    out = reference.deform_conv2d(**leaves, **case.geometry)
    values = gradients(out, leaves, grad.double())
    del values["output"]
    return values


class OneByOne(torch.autograd.Function):
    """`a @ b`; products of its gradients are added one after another, a few at a time in sums of
    more than a thousand.
    """

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return OneByOne.product(grad, b.mT), OneByOne.product(a.mT, grad)

    @staticmethod
    def product(a: Tensor, b: Tensor) -> Tensor:
        out = a.new_zeros(*a.shape[:2], b.shape[2])
        step = math.ceil(a.shape[2] / 1024)
        for i in range(0, a.shape[2], step):
            out.baddbmm_(a[:, :, i : i + step], b[:, i : i + step])
        return out


def columns_of_one_gather(case: Case, tensors: Tensors) -> Tensor:
    """As `columns_of`; all four corners of all samples are read at once, so that the gradient of a
    pixel is one sum.
    """
    input, offset, mask = (tensors[name] for name in ("input", "offset", "mask"))
    (h, w), groups = case.size, case.offset_groups
    places = reference.positions(offset, case.kernel, *case.geometry.values())
    y, x = (place.flatten(2) for place in places)  # [N, D, samples]
    counts = reference.inside(y, x, (h, w))
    y, x = (torch.where(counts, place, 0) for place in (y, x))
    top, left = y.detach().floor(), x.detach().floor()
    index, weight = [], []
    for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for col, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            there = counts & (row >= 0) & (row < h) & (col >= 0) & (col < w)
            index.append(torch.where(there, row * w + col, h * w).long())  # a zero lies there
            weight.append(weight_y * weight_x)
    image = functional.pad(input.reshape(case.n, groups, case.c // groups, h * w), (0, 1))
    index = torch.cat(index, 2)[:, :, None].expand(-1, -1, image.shape[2], -1)
    corners = image.gather(3, index).unflatten(3, (4, -1)) * torch.stack(weight, 2)[:, :, None]
    columns = corners.sum(3)  # [N, D, C/D, samples]
    if mask is not None:
        columns = columns * mask.reshape(case.n, groups, 1, -1)
    return columns.reshape(case.n, -1, *case.output_size)


def one_by_one(case: Case, tensors: Tensors) -> Tensor:
    columns = by_group(case, columns_of_one_gather(case, tensors))
    weight = tensors["weight"].reshape(case.groups, case.k // case.groups, -1)
    if tensors["bias"] is not None:  # it multiplies a column of ones
        weight = torch.cat((weight, tensors["bias"].reshape(case.groups, -1, 1)), 2)
        columns = functional.pad(columns, (0, 0, 0, 1), value=1.0)
    out = OneByOne.apply(weight, columns)
    return out.reshape(case.k, case.n, *case.output_size).movedim(0, 1)


def pytorch_gradients(case: Case, kind: Arithmetic, tensors: Tensors, grad: Tensor):
    """By PyTorch's own operations in the dtype of the call, in each usual order of summation."""

    def of(function) -> Tensors:
        leaves = leaves_of(tensors)
        return gradients(function(leaves), leaves, grad)

    for flip in (False, True):
        yield of(lambda leaves, flip=flip: pytorch_deform_conv2d(case, leaves, kind.tf32, flip))
    if kind.name == "f32":
        yield of(lambda leaves: one_by_one(case, leaves))
    elif kind.tf32 and tensors["bias"] is not None:  # whose gradient has no products
        pixels = grad.movedim(1, 0).flatten(1)[None]  # [1, K, N*P*Q]
        yield {"bias": OneByOne.product(pixels, torch.ones_like(pixels[:, :1]).mT).flatten()}


class Allowance:
    """How far gradients may be from the truth, the reference in float64: twice PyTorch's error,
    which counts as half an ulp of the largest value at least (as in test_values).

    In float32 the largest error is a matter of luck: there it is L2, the largest only bounded by
    four times theirs (as in `fused_cases.judge`). A small tensor's error is luck in every dtype,
    so before one is called too large, PyTorch's is measured on other draws too, each relative to
    its largest value.
    """

    def __init__(self, case: Case, kind: Arithmetic, drawn: Drawing) -> None:
        self.case, self.kind, self.drawn = case, kind, drawn
        self.f32 = kind.name == "f32"
        self.tensors, self.grad = drawn(0)
        self.truth = reference_gradients(case, self.tensors, self.grad)
        self.draws = 0
        self.largest = dict.fromkeys(LEAVES, 0.5 * torch.finfo(kind.dtype).eps)
        self.mean = dict(self.largest)
        self.measure()

    def measure(self) -> None:
        """PyTorch's errors on one more draw."""
        tensors, grad = self.drawn(self.draws)
        truth = reference_gradients(self.case, tensors, grad) if self.draws else self.truth
        for values in pytorch_gradients(self.case, self.kind, tensors, grad):
            for name in values.keys() & truth.keys():
                scale = truth[name].abs().amax().item()
                if scale == 0:
                    continue
                for most, error in ((self.largest, largest_error), (self.mean, mean_error)):
                    most[name] = max(most[name], error(values[name], truth[name]) / scale)
        self.draws += 1

    def excesses(self, values: Tensors, truth: Tensors | None = None) -> list[str]:
        """What is wrong with the gradients given; `truth` may be another one of the same size."""
        truth = truth or self.truth
        while True:
            found = [
                text for name in values if (text := self.excess(name, values[name], truth[name]))
            ]
            if not found or self.draws == 3:
                return found
            self.measure()

    def excess(self, name: str, value: Tensor, truth: Tensor) -> str:
        scale = truth.abs().amax().item()
        largest = (4 if self.f32 else 2) * self.largest[name] * scale
        if not (error := largest_error(value, truth)) <= largest:
            return f"{name}: error {error:.3g}, allowed {largest:.3g}"
        mean = 2 * self.mean[name] * scale
        if self.f32 and not (error := mean_error(value, truth)) <= mean:
            return f"{name}: L2 error {error:.3g}, allowed {mean:.3g}"
        return ""


def same(ours: Tensors, expected: Tensors, exact: list[str], kind: Arithmetic) -> list[str]:
    """What differs: in its bits or, where they are not promised, by more than two orders of the
    sums, or two of cuBLAS's kernels, may.
    """
    wide = {"f32": 2**-14, "tf32": 2**-8}  # thousands of terms; operands of tf32 or of f32
    tolerance = wide.get(kind.name, 4 * torch.finfo(kind.dtype).eps)
    differ = []
    for name, value in ours.items():
        if name in exact:
            equal = torch.equal(value, expected[name])
        else:
            most = tolerance * expected[name].double().abs().amax().item()
            equal = largest_error(value, expected[name].double()) <= most
        if not equal:
            differ.append(name)
    return differ
