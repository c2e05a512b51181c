"""Modules: `DeformConv2d` as in torchvision, and packs that predict their own offsets."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from . import functional, prediction


class DeformConv2d(nn.Module):
    """Deformable convolution (Dai et al. 2017; with a mask, Zhu et al. 2019) that owns the weight.

    Arguments, initialisation, state dict and `repr` are those of `torchvision.ops.DeformConv2d`.

    Raises:
        ValueError: `groups` does not divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups != 0:
                raise ValueError(f"{name} must be divisible by groups: {channels} and {groups}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size)
        )
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.drop_packed_weight()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias as `torch.nn.Conv2d` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `dcn.deform_conv2d` for shapes and dtypes; groups are inferred from the shapes."""
        groups, offset_groups = functional.infer_groups(input, offset, self.weight)
        return torch.ops.dcn.deform_conv2d(
            input,
            self.weight,
            offset,
            mask,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            groups,
            offset_groups,
            0,
            self.packed_weight_for(offset_groups),
        )

    def pack_weight(self, offset_groups: int) -> None:
        """Keeps the weight packed for calls with that many offset groups; see `dcn.prepack`.

        Raises:
            NotImplementedError: no call on this device with this weight would take it.
        """
        self.drop_packed_weight()
        with torch.no_grad():
            self.packed_weight = torch.ops.dcn.pack_weight(self.weight, self.groups, offset_groups)
        self.packed_offset_groups = offset_groups

    def drop_packed_weight(self) -> None:
        """Calls pack the weight themselves from here on."""
        self.register_buffer("packed_weight", None, persistent=False)
        self.packed_offset_groups = 0

    def packed_weight_for(self, offset_groups: int) -> Tensor | None:
        """The packed weight, if it was packed for that many offset groups. The operator compares
        device, dtype and shape."""
        return self.packed_weight if offset_groups == self.packed_offset_groups else None

    def train(self, mode: bool = True) -> "DeformConv2d":
        if mode:
            self.drop_packed_weight()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DeformConv2d":
        # To a narrower dtype and back, the packed weight would not be rounded as the weight is.
        dtype = self.weight.dtype
        super()._apply(fn, recurse)
        if self.weight.dtype != dtype:
            self.drop_packed_weight()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.drop_packed_weight()
        super()._load_from_state_dict(*args, **kwargs)

    def __repr__(self) -> str:
        parts = [
            f"{self.in_channels}, {self.out_channels}",
            f"kernel_size={self.kernel_size}",
            f"stride={self.stride}",
        ]
        if self.padding != (0, 0):
            parts.append(f"padding={self.padding}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        return f"{type(self).__name__}({', '.join(parts + self._repr_more())})"

    def _repr_more(self) -> list[str]:
        return []


class DeformConv2dPack(DeformConv2d):
    """`DeformConv2d` with its own offset convolution (Dai et al. 2017; mmcv's `DCN`).

    `conv_offset`, a convolution of the same kernel size, stride, padding and dilation, predicts
    `2*D*R*S` offsets from the input. It starts at zero, so the module starts as a convolution.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as for
            `torch.nn.Conv2d`.
        deform_groups: the number of offset groups D, by mmcv's name.
        bias: False by default, as mmcv has it for v1.
        im2col_step: images in one step of the im2col algorithm; 0: the plan decides. It does not
            change results, and any batch size is fine.
        offset_groups: D, by this package's name.
        activation: a function or a module, applied to the output.

    Under autocast `conv_offset` runs in 16 bits like any convolution, since running it in float32
    would convert the whole input. Only the offset is rounded, never a position: below 8 px by at
    most 1/512 px in float16 and 1/64 px in bfloat16, in proportion less for smaller offsets. Where
    that matters, compute offsets in float32 and pass them in.
    """

    _channels_per_tap = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        im2col_step: int = 0,
        *,
        offset_groups: int | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        if offset_groups is None:
            offset_groups = deform_groups
        elif deform_groups not in (1, offset_groups):
            raise ValueError(
                "deform_groups and offset_groups are two names of one number, "
                f"but got {deform_groups} and {offset_groups}"
            )
        if in_channels % offset_groups != 0:
            raise ValueError(
                f"in_channels must be divisible by offset_groups: {in_channels} and {offset_groups}"
            )
        self.offset_groups = offset_groups
        self.im2col_step = im2col_step
        # TorchScript can call a function that a module holds, but not compare it with None.
        self.activation = nn.Identity() if activation is None else activation
        self.conv_offset = nn.Conv2d(
            in_channels,
            self._channels_per_tap * offset_groups * self.kernel_size[0] * self.kernel_size[1],
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
        )
        self.init_offset()

    def init_offset(self) -> None:
        """Sets the offset convolution to zero."""
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, input: Tensor, offset: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """`input [N, C, H, W]` alone: what the pack needs beside it, it predicts from it.

        Passed in, `offset [N, 2*D*R*S, P, Q]` and `mask [N, D*R*S, P, Q]` are used as they are:
        no sigmoid, no scale; an offset without a mask means a mask of ones.

        Raises:
            ValueError: a mask without an offset.
        """
        if offset is None:
            if mask is not None:
                raise ValueError("a mask was passed without an offset")
            offset, mask = self._predict(input)
        out = torch.ops.dcn.deform_conv2d(
            input,
            self.weight,
            offset,
            mask,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.offset_groups,
            self.im2col_step,
            self.packed_weight_for(self.offset_groups),
        )
        return self.activation(out)

    def _predict(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.conv_offset(input), None

    def _repr_more(self) -> list[str]:
        parts = [f"offset_groups={self.offset_groups}"] if self.offset_groups != 1 else []
        if not isinstance(self.activation, nn.Identity):
            parts.append(f"activation={self.activation}")
        return parts


class ModulatedDeformConv2dPack(DeformConv2dPack):
    """`DeformConv2d` with its own convolution for offsets and mask (Zhu et al. 2019; `DCNv2`).

    `conv_offset` predicts `2*D*R*S` offsets and then `D*R*S` logits from the input; the mask is
    `mask_scale * sigmoid(logits)`. It starts at zero: no offsets, and a mask of `mask_scale / 2`.

    Args:
        bias: True by default, as mmcv has it for v2.
        mask_scale: 1 as in mmcv and detectron2; 2 starts the module as a plain convolution.

    All other arguments, and what autocast does: see `DeformConv2dPack`.
    """

    _channels_per_tap = 3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
        im2col_step: int = 0,
        *,
        offset_groups: int | None = None,
        mask_scale: float = 1.0,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            deform_groups,
            bias,
            im2col_step,
            offset_groups=offset_groups,
            activation=activation,
        )
        self.mask_scale = float(mask_scale)

    def _predict(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        return prediction.split(self.conv_offset(input), self.mask_scale)

    def _repr_more(self) -> list[str]:
        scale = [f"mask_scale={self.mask_scale:g}"] if self.mask_scale != 1.0 else []
        return super()._repr_more() + scale
