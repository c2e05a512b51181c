"""The functional form of deformable convolution."""

import torch
from torch import Tensor

from . import _ops  # noqa: F401  (registers torch.ops.dcn)


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(value, int):
        return (value, value)
    if len(value) != 2:
        raise ValueError(f"deform_conv2d: expected {name} to be an int or a pair, but got {value}")
    return (value[0], value[1])


def infer_groups(input: Tensor, offset: Tensor, weight: Tensor) -> tuple[int, int]:
    """G and D from the shapes, as torchvision does, after checking what the division needs."""
    if input.dim() != 4 or offset.dim() != 4 or weight.dim() != 4:
        raise RuntimeError(
            "deform_conv2d: expected input [N, C, H, W], offset [N, 2*D*R*S, P, Q] and weight "
            f"[K, C/G, R, S], all of rank 4, but got ranks {input.dim()}, {offset.dim()} and "
            f"{weight.dim()}"
        )
    _, per_group, r, s = weight.shape
    channels, maps, maps_per_group = input.shape[1], offset.shape[1], 2 * r * s
    if per_group == 0 or maps_per_group == 0:
        raise RuntimeError(
            f"deform_conv2d: expected a weight [K, C/G, R, S] without zero sizes, "
            f"but got weight_c: {per_group} weight_h: {r} weight_w: {s}"
        )
    if channels == 0 or channels % per_group != 0:
        raise RuntimeError(
            "deform_conv2d: expected the channels of the input to be a multiple of "
            f"weight.shape[1] = {per_group}, but got {channels}"
        )
    if maps == 0 or maps % maps_per_group != 0:
        raise RuntimeError(
            "deform_conv2d: the shape of the offset tensor at dimension 1 is not valid. It should "
            "be a multiple of 2 * weight.size[2] * weight.size[3] "
            f"= {maps_per_group}, but got offset.shape[1] = {maps}"
        )
    return (channels // per_group, maps // maps_per_group)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution: v1 (Dai et al. 2017), or v2 with `mask` (Zhu et al. 2019).

    The arguments are those of `torchvision.ops.deform_conv2d`, in its order. The number of groups
    G is `C // weight.shape[1]`, that of offset groups D is `offset.shape[1] // (2*R*S)`.

    Args:
        input: `[N, C, H, W]`; float64, float32, float16 or bfloat16.
        offset: `[N, 2*D*R*S, P, Q]`, in pixels of the input: for each offset group and kernel
            position (row by row) first y, then x. Dtype of `input`, or float32 beside 16 bits.
        weight: `[K, C/G, R, S]`, dtype of `input`.
        bias: `[K]`, dtype of `input`.
        stride, padding, dilation: an int, or a pair (vertical, horizontal).
        mask: `[N, D*R*S, P, Q]`, factors of the samples, used as they are (no sigmoid); dtype as
            for `offset`. None: all ones.

    Returns:
        `[N, K, P, Q]` in the dtype and memory format of `input`, with
        `P = (H + 2*padding - dilation*(R - 1) - 1) // stride + 1` and Q likewise.

    Positions and sums are float32 (float64 for float64), whatever the dtype. A sample outside
    (-1, H) x (-1, W) is 0 and has zero gradients, also exactly at -1; one with a NaN position is
    NaN. Under autocast all but a float32 offset is cast to the autocast dtype. It can be
    differentiated any number of times by backward passes, but not in forward mode.

    Raises:
        RuntimeError: sizes, dtypes or devices do not fit; the message has both values.
    """
    groups, offset_groups = infer_groups(input, offset, weight)
    return torch.ops.dcn.deform_conv2d(
        input,
        weight,
        offset,
        mask,
        bias,
        _pair("stride", stride),
        _pair("padding", padding),
        _pair("dilation", dilation),
        groups,
        offset_groups,
    )
