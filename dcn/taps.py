"""Where the taps of an output pixel sample in the image, through one layer or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .observe import Call


@dataclass(frozen=True)
class Taps:
    """Where one output pixel samples: px of the image, y before x."""

    centre: Tensor  # [2], of the output pixel
    regular: Tensor  # [taps, 2], without offsets
    sampled: Tensor  # [taps, 2]
    mask: Tensor  # [taps]; the product along the way of each, 1 without masks


def follow(
    calls: Sequence[Call],
    image_size: tuple[int, int],
    points: Sequence[tuple[float, float]],
    group: int = 0,
) -> list[Taps]:
    """Follows the taps of the last layer's output pixels back through all layers (Dai et al. 2017).

    L layers of R*S taps give (R*S)^L. Between two layers a tap goes on from the nearest output
    pixel of the layer before; one that lies outside of it reads nothing there, and ends. A pixel of
    a map is taken to lie where strides alone put it: at its index times the power of two nearest to
    the ratio of image and map.

    Args:
        calls: in order of execution, of one forward pass; the first image of its batch counts.
        image_size: H and W of the image.
        points: `(y, x)` in the image; the nearest output pixel of the last layer is taken.
        group: the offset group.
    """
    plain = [call.without_offsets() for call in calls]
    found = []
    for point in points:
        last = calls[-1]
        scale = _scale(last, image_size)
        pixel = _output_pixel(last, torch.tensor(point) / scale)
        limits = torch.tensor(last.offset.shape[2:]) - 1
        pixel = torch.minimum(pixel.clamp(min=0), limits)
        sampled, mask = _samples(calls, image_size, pixel, group)
        regular, _ = _samples(plain, image_size, pixel, 0)
        found.append(Taps(_centre(last, pixel) * scale, regular, sampled, mask))
    return found


def _samples(
    calls: Sequence[Call], image_size: tuple[int, int], pixel: Tensor, group: int
) -> tuple[Tensor, Tensor]:
    """Positions `[taps, 2]` in the image and masks `[taps]`, of one output pixel `[2]`."""
    pixels, masks, positions = pixel[None], torch.ones(1), None
    for call in reversed(calls):
        if positions is not None:
            pixels = _output_pixel(call, positions / _scale(call, image_size))
            inside = ((pixels >= 0) & (pixels < torch.tensor(call.offset.shape[2:]))).all(1)
            pixels, masks = pixels[inside], masks[inside]
        p, q = pixels.unbind(1)
        y, x = (axis[0, group].float().cpu()[:, p, q] for axis in call.positions)  # [R*S, pixels]
        positions = torch.stack([y.T, x.T], 2).flatten(0, 1) * _scale(call, image_size)
        if call.mask is None:
            masks = masks.repeat_interleave(len(y))
        else:
            mask = call.mask[0].unflatten(0, (-1, len(y)))[group].float().cpu()
            masks = (masks * mask[:, p, q]).T.flatten()
    return positions, masks


def _scale(call: Call, image_size: tuple[int, int]) -> Tensor:
    """px of the image for one of the layer's input, vertically and horizontally."""
    ratio = torch.tensor(image_size) / torch.tensor(call.size)
    return 2 ** ratio.log2().round()


def _first_centre(call: Call) -> Tensor:
    """The centre of output pixel (0, 0), in px of the layer's input."""
    padding, dilation, size = map(torch.tensor, (call.padding, call.dilation, call.kernel_size))
    return dilation * (size - 1) / 2 - padding


def _centre(call: Call, pixel: Tensor) -> Tensor:
    return pixel * torch.tensor(call.stride) + _first_centre(call)


def _output_pixel(call: Call, position: Tensor) -> Tensor:
    """The output pixel nearest to a position in px of the layer's input, inside the map or not."""
    exact = (position - _first_centre(call)) / torch.tensor(call.stride)
    # A sample at NaN or far off is outside of any map, and an int64 holds no NaN.
    return exact.nan_to_num(-9e9).clamp(-9e9, 9e9).add(0.5).floor().long()
