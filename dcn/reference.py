"""Deformable convolution in plain PyTorch: slow, differentiable, and the definition of right.

It reads like the formula, and its gradients are those of autograd. `torch.where` stands wherever
a value must not enter: unlike a product with zero it stops NaN and infinity, in both directions.
"""

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair


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
    """As `dcn.deform_conv2d`, for float32 and float64; it checks nothing.

    out[n,k,p,q] = bias[k] + sum over t, c of weight[k,c,t] * mask[n,d,t,p,q] * sample[n,c,t,p,q]
    """
    n, c, h, w = input.shape
    k, channels, r, s = weight.shape
    p, q = offset.shape[2:]
    groups, offset_groups = c // channels, offset.shape[1] // (2 * r * s)
    y, x = positions(offset, (r, s), stride, padding, dilation)
    image = input.reshape(n, offset_groups, c // offset_groups, h * w)
    columns = _sample(image, (h, w), y.flatten(2), x.flatten(2))  # [N, D, C/D, R*S*P*Q]
    if mask is not None:
        columns = columns * mask.reshape(n, offset_groups, 1, r * s * p * q)
    columns = columns.reshape(n, groups, channels, r * s, p, q)
    weight = weight.reshape(groups, k // groups, channels, r * s)
    out = torch.einsum("ngctpq,gkct->ngkpq", columns, weight).reshape(n, k, p, q)
    return out if bias is None else out + bias[:, None, None]


def positions(
    offset: Tensor,
    kernel_size: tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
) -> tuple[Tensor, Tensor]:
    """Where the samples lie, in px of the input: y and x, each `[N, D, R*S, P, Q]`."""
    r, s = kernel_size
    p, q = offset.shape[2:]

    def origin(axis: int, taps: int, pixels: int) -> Tensor:  # [taps, pixels]
        tap, pixel = (torch.arange(m).to(offset)[:, None] for m in (taps, pixels))
        return pixel.T * _pair(stride)[axis] - _pair(padding)[axis] + tap * _pair(dilation)[axis]

    offset = offset.unflatten(1, (-1, r, s, 2))
    y = offset[:, :, :, :, 0] + origin(0, r, p)[:, None, :, None]  # [N, D, R, S, P, Q]
    x = offset[:, :, :, :, 1] + origin(1, s, q)[None, :, None, :]
    return y.flatten(2, 3), x.flatten(2, 3)


def inside(y: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Which samples of a map of this height and width count; never one with a NaN position."""
    return (y > -1) & (y < size[0]) & (x > -1) & (x < size[1])


def _sample(image: Tensor, size: tuple[int, int], y: Tensor, x: Tensor) -> Tensor:
    """Bilinear values of `image [N, D, C/D, H*W]` at `y`, `x` `[N, D, samples]`."""
    h, w = size
    counts = inside(y, x, size)
    nan = y.isnan() | x.isnan()
    poison = torch.where(nan, y + x, 0) * torch.where(nan, y + x, 0).detach()  # NaN, gradient too
    y, x = torch.where(counts, y, 0), torch.where(counts, x, 0)
    top, left = y.detach().floor(), x.detach().floor()
    value = torch.zeros((), dtype=image.dtype, device=image.device)
    for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for col, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            there = counts & (row >= 0) & (row < h) & (col >= 0) & (col < w)
            index = torch.where(there, row * w + col, 0).long()[:, :, None]
            pixel = image.gather(3, index.expand(-1, -1, image.shape[2], -1))
            pixel = torch.where(there[:, :, None], pixel, 0)
            value = value + (weight_y * weight_x)[:, :, None] * pixel
    return value + poison[:, :, None]
