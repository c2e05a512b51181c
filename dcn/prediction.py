"""From what an offset convolution predicts to the offset and the mask of the operator."""

from collections.abc import Sequence

import torch
from torch import Tensor


def split(predicted: Tensor, mask_scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """`[N, 3*D*R*S, P, Q]`: first the offsets, then the logits of the mask (Zhu et al. 2019)."""
    offsets = predicted.shape[1] // 3 * 2
    return predicted[:, :offsets], mask(predicted[:, offsets:], mask_scale)


def mask(logits: Tensor, scale: float = 1.0) -> Tensor:
    """`scale * sigmoid(logits)`: `scale / 2` where a convolution that starts at zero begins."""
    values = torch.sigmoid(logits)
    return values if scale == 1.0 else values * scale


def follow(flows: Sequence[Tensor], residue: Tensor, max_residue_magnitude: float) -> Tensor:
    """Offsets that follow optical flow (Chan et al. 2022, BasicVSR++, equation 6).

    Args:
        flows: each `[N, 2, P, Q]`, in pixels, x before y as flow is kept; of F flows each moves the
            next 1/F of the offset groups. None at all: the residue alone.
        residue: `[N, 2*D*R*S, P, Q]`, without bounds.
        max_residue_magnitude: `tanh` keeps the residue below it, in pixels.

    Raises:
        ValueError: the flows do not divide the offsets into equal parts of (y, x) pairs.
    """
    offset = max_residue_magnitude * torch.tanh(residue)
    if not flows:
        return offset
    pairs = offset.shape[1] // 2
    if pairs % len(flows) != 0:
        raise ValueError(
            f"expected offsets that {len(flows)} flows share evenly, but got {pairs} (y, x) pairs"
        )
    return offset + torch.cat(
        [flow.flip(1).repeat(1, pairs // len(flows), 1, 1) for flow in flows], 1
    )
