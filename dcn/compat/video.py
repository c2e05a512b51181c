"""Alignment in video models: offsets from other features than those they move, led by flow."""

from typing import Any

import torch
from torch import Tensor, nn

from .. import prediction
from .mmcv import ModulatedDeformConv2d, ModulatedDeformConv2dPack


class FlowGuidedDeformConv2d(ModulatedDeformConv2d):
    """v2 whose offsets are `max_residue_magnitude * tanh(...)` around one or more optical flows.

    BasicVSR++ (Chan et al. 2022) with two flows, ProPainter with one or none, VRT.

    Args:
        args, kwargs: those of `dcn.compat.mmcv.ModulatedDeformConv2d`.
        conv_offset: a module from the features to `[N, 3*D*R*S, P, Q]`: offsets, then mask logits.
        max_residue_magnitude: the largest distance from the flow, in pixels.
    """

    def __init__(
        self,
        *args: Any,
        conv_offset: nn.Module,
        max_residue_magnitude: float = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.max_residue_magnitude = max_residue_magnitude
        self.conv_offset = conv_offset

    def forward(self, x: Tensor, features: Tensor, *flows: Tensor) -> Tensor:
        """`x [N, C, H, W]`, features for `conv_offset`, flows `[N, 2, P, Q]` (x, y) in pixels.

        Raises:
            ValueError: the flows do not divide the offset groups.
        """
        residue, mask = prediction.split(self.conv_offset(features))
        offset = prediction.follow(flows, residue, self.max_residue_magnitude)
        return super().forward(x, offset, mask)


class SecondOrderDeformableAlignment(FlowGuidedDeformConv2d):
    """BasicVSR++'s alignment, with its own offset network (Chan et al. 2022, section 3.2).

    Args:
        args, kwargs: those of `dcn.compat.mmcv.ModulatedDeformConv2d`; the published models have
            `deform_groups=16`, and an even number is needed.
        max_residue_magnitude: as for `FlowGuidedDeformConv2d`.
    """

    def __init__(self, *args: Any, max_residue_magnitude: float = 10, **kwargs: Any) -> None:
        network = nn.Sequential()
        super().__init__(
            *args, conv_offset=network, max_residue_magnitude=max_residue_magnitude, **kwargs
        )
        width = self.out_channels
        for channels in (3 * width + 4, width, width):
            network.append(nn.Conv2d(channels, width, 3, 1, 1))
            network.append(nn.LeakyReLU(negative_slope=0.1, inplace=True))
        network.append(nn.Conv2d(width, 27 * self.deform_groups, 3, 1, 1))
        self.init_offset()

    def init_offset(self) -> None:
        nn.init.zeros_(self.conv_offset[-1].weight)
        nn.init.zeros_(self.conv_offset[-1].bias)

    def forward(self, x: Tensor, extra_feat: Tensor, flow_1: Tensor, flow_2: Tensor) -> Tensor:
        """`x` holds the features of two frames, `extra_feat [N, 3*K, H, W]` what aligns them."""
        features = torch.cat([extra_feat, flow_1, flow_2], dim=1)
        return super().forward(x, features, flow_1, flow_2)


class DCNv2Pack(ModulatedDeformConv2dPack):
    """EDVR's pack: `conv_offset` sees other features than those that are sampled."""

    def forward(self, x: Tensor, feat: Tensor) -> Tensor:
        return ModulatedDeformConv2d.forward(self, x, *prediction.split(self.conv_offset(feat)))
