"""mmcv's functions: the order of arguments is theirs."""

from typing import Any

from torch import Tensor

from ..operator import call


def modulated_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """v2; shapes, dtypes and errors are those of `dcn.deform_conv2d`.

    As in mmcv, all tensors take the dtype of a 16-bit offset. A float32 offset stands beside 16-bit
    inputs (mmcv would convert these to float32).
    """
    return in_offset_dtype(
        input, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups
    )


def in_offset_dtype(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *more: Any,
) -> Tensor:
    """Calls the operator with every tensor in the dtype of a 16-bit offset; `more` as `call`."""
    if offset.dtype.itemsize == 2:
        input, weight = input.to(offset.dtype), weight.to(offset.dtype)
        mask, bias = (None if t is None else t.to(offset.dtype) for t in (mask, bias))
    return call(input, offset, mask, weight, bias, *more)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    deform_groups: int = 1,
    bias: bool = False,
    im2col_step: int = 32,
) -> Tensor:
    """v1, which has no bias in mmcv. `im2col_step` is accepted: any batch size is fine.

    Raises:
        ValueError: `bias` is set.
    """
    refuse_bias(bias)
    return modulated_deform_conv2d(
        input, offset, None, weight, None, stride, padding, dilation, groups, deform_groups
    )


def refuse_bias(bias: object) -> None:
    if bias:
        raise ValueError(f"Only support bias is False: mmcv's v1 has none, but got {bias!r}")
