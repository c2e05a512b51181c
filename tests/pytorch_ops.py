"""The same convolution from PyTorch's own operations, in the dtype of the call: a yardstick.

An implementation is judged by the error that PyTorch itself makes: positions and columns in
float32, columns rounded to the dtype, then one matrix product per group in the dtype.
"""

from __future__ import annotations

import torch
from cases import LEAVES, Case
from torch import Tensor

from dcn import reference


def round_to_tf32(tensor: Tensor) -> Tensor:
    """Tensor cores read 10 of the 23 bits of a float32 mantissa."""
    return (tensor.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


class Tf32Matmul(torch.autograd.Function):
    """`a @ b` where every product, those of backward too, has tf32 operands."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return round_to_tf32(a) @ round_to_tf32(b)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = (round_to_tf32(saved) for saved in ctx.saved_tensors)
        grad = round_to_tf32(grad)
        return grad @ b.mT, a.mT @ grad


def columns_of(case: Case, tensors: dict[str, Tensor | None]) -> Tensor:
    """`[N, C*R*S, P, Q]`, in float32 at least: a depthwise convolution that picks single taps."""
    wide = torch.promote_types(tensors["input"].dtype, torch.float32)
    input, offset, mask = (
        None if tensors[name] is None else tensors[name].to(wide)
        for name in ("input", "offset", "mask")
    )
    taps = case.kernel[0] * case.kernel[1]
    pick = torch.eye(taps, dtype=wide, device=input.device).repeat(case.c, 1)
    pick = pick.reshape(case.c * taps, 1, *case.kernel)
    return reference.deform_conv2d(input, offset, pick, mask=mask, **case.geometry)


def by_group(case: Case, columns: Tensor) -> Tensor:
    """`[G, C/G*R*S, N*P*Q]`."""
    columns = columns.reshape(case.n, case.groups, -1, *case.output_size)
    return columns.movedim(0, 2).flatten(2)


def deform_conv2d(
    case: Case, tensors: dict[str, Tensor | None], tf32: bool = False, flip: bool = False
) -> Tensor:
    """`flip` adds everything up in the opposite order: another rounding of the same value."""
    dtype = tensors["input"].dtype
    columns = by_group(case, columns_of(case, tensors).to(dtype))
    weight = tensors["weight"].reshape(case.groups, case.k // case.groups, -1)
    if flip:
        weight, columns = weight.flip(2), columns.flip(1, 2)
    out = (Tf32Matmul.apply if tf32 else torch.matmul)(weight, columns)
    if tensors["bias"] is not None:
        out = out + tensors["bias"].reshape(case.groups, -1, 1)
    if flip:
        out = out.flip(2)
    return out.reshape(case.k, case.n, *case.output_size).movedim(0, 1)


def one_by_one(case: Case, tensors: dict[str, Tensor | None]) -> Tensor:
    """The products added one after another, from the bias on: the plainest order of all, in which
    multiply-adds into one register come, and half of the kernels of BLAS libraries. For the wide
    dtypes, since every sum is rounded to the dtype.
    """
    columns = by_group(case, columns_of(case, tensors))
    weight = tensors["weight"].reshape(case.groups, case.k // case.groups, -1)
    out = columns.new_zeros(case.groups, weight.shape[1], columns.shape[2])
    if tensors["bias"] is not None:
        out = out + tensors["bias"].reshape(case.groups, -1, 1)
    for i in range(columns.shape[1]):
        out = out.addcmul(weight[:, :, i, None], columns[:, None, i])
    return out.reshape(case.k, case.n, *case.output_size).movedim(0, 1)


def gradients(out: Tensor, tensors: dict[str, Tensor | None], grad: Tensor) -> dict[str, Tensor]:
    """By name, the output among them."""
    leaves = [name for name in LEAVES if tensors[name] is not None]
    values = torch.autograd.grad(out, [tensors[name] for name in leaves], grad)
    return {"output": out.detach()} | dict(zip(leaves, values, strict=True))
