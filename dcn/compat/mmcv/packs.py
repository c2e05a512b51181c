"""mmcv's packs, which its registry calls `DCN` and `DCNv2`, and the keys of old checkpoints."""

from typing import Any

from torch import Tensor, nn

from ... import prediction
from .layers import DeformConv2d, ModulatedDeformConv2d


class _OldKeys(nn.Module):
    """Loads checkpoints from before `_version` 2 of the packs.

    These have `conv2_offset.weight` beside `conv2.weight`, or `conv2.conv_offset_mask.weight`,
    where a pack now has `conv2.conv_offset.weight`. `nn.Module.load_state_dict` and mmengine's
    loader show a module its own keys alone (mmcv 1's showed all): for the first spelling use
    `dcn.compat.translate_keys`.
    """

    _version = 2

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict, *rest: Any
    ) -> None:
        if (local_metadata.get("version") or 1) < 2:
            for old in (f"{prefix}conv_offset_mask", f"{prefix[:-1]}_offset"):
                for name in ("weight", "bias"):
                    new = f"{prefix}conv_offset.{name}"
                    if new not in state_dict and f"{old}.{name}" in state_dict:
                        state_dict[new] = state_dict.pop(f"{old}.{name}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def _conv_offset(layer: nn.Module, channels_per_tap: int) -> nn.Conv2d:
    channels = layer.deform_groups * channels_per_tap * layer.kernel_size[0] * layer.kernel_size[1]
    geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return nn.Conv2d(layer.in_channels, channels, *geometry)


class DeformConv2dPack(_OldKeys, DeformConv2d):
    """v1 that predicts its offsets; arguments of `DeformConv2d`. It starts as a convolution."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv_offset = _conv_offset(self, 2)
        self.init_offset()

    def init_offset(self) -> None:
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, self.conv_offset(x))


class ModulatedDeformConv2dPack(_OldKeys, ModulatedDeformConv2d):
    """v2 that predicts offsets and mask; arguments of `ModulatedDeformConv2d`.

    The mask starts at 0.5.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv_offset = _conv_offset(self, 3)
        self.init_weights()

    def init_weights(self) -> None:
        super().init_weights()
        if hasattr(self, "conv_offset"):  # not yet, when the base class initialises itself
            nn.init.zeros_(self.conv_offset.weight)
            nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, *prediction.split(self.conv_offset(x)))
