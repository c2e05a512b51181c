"""The operator as the other packages call it: groups are given, not inferred."""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from .. import _ops  # noqa: F401  (registers torch.ops.dcn)


def call(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    groups: int,
    offset_groups: int,
    packed_weight: Tensor | None = None,
) -> Tensor:
    """Shapes and dtypes: `dcn.deform_conv2d`.

    Raises:
        ValueError: an input that is not 4D, as mmcv and detectron2 have it.
        RuntimeError: sizes, dtypes or devices do not fit; the message has both values.
    """
    if input.dim() != 4:
        raise ValueError(f"Expected 4D tensor as input, got {input.dim()}D tensor instead.")
    return torch.ops.dcn.deform_conv2d(
        input,
        weight,
        offset,
        mask,
        bias,
        _pair(stride),
        _pair(padding),
        _pair(dilation),
        groups,
        offset_groups,
        0,
        packed_weight,
    )


def uniform_(layer: nn.Module) -> None:
    """The start of mmcv's v2 and of DCNv2: weights in +-1/sqrt(C*R*S) for any groups, bias 0."""
    bound = 1 / math.sqrt(layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1])
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
