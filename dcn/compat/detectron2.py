"""`detectron2.layers`: `DeformConv`, `ModulatedDeformConv` and their functions.

`DeformBottleneckBlock` keeps its offset convolution beside them, as `conv2_offset`.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from .. import modules
from .operator import call


def deform_conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    deformable_groups: int = 1,
    im2col_step: int = 64,
) -> Tensor:
    """v1; shapes, dtypes and errors are those of `dcn.deform_conv2d`.

    `im2col_step` is accepted: any batch size is fine.
    """
    return call(
        input, offset, None, weight, None, stride, padding, dilation, groups, deformable_groups
    )


def modulated_deform_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    deformable_groups: int = 1,
) -> Tensor:
    """v2; shapes, dtypes and errors are those of `dcn.deform_conv2d`."""
    return call(
        input, offset, mask, weight, bias, stride, padding, dilation, groups, deformable_groups
    )


class ModulatedDeformConv(modules.DeformConv2d):
    """v2 (Zhu et al. 2019), then `norm`, then `activation`, both of which an empty batch skips.

    Args:
        deformable_groups: the number of offset groups D.
        norm: a module, kept as `norm`, or None.
        activation: a function or a module, or None.
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
        deformable_groups: int = 1,
        bias: bool = True,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        self.stride, self.padding, self.dilation = stride, padding, dilation  # as given
        self.deformable_groups = deformable_groups
        self.with_bias = bias
        self.norm = norm
        self.activation = activation

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        out = call(
            x, offset, mask, self.weight, self.bias, self.stride, self.padding, self.dilation,
            self.groups, self.deformable_groups, self.packed_weight_for(self.deformable_groups),
        )  # fmt: skip
        if x.numel() == 0:
            return out
        out = out if self.norm is None else self.norm(out)
        return out if self.activation is None else self.activation(out)

    __repr__ = nn.Module.__repr__

    def extra_repr(self) -> str:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
        shown = [f"{name}={getattr(self, name)}" for name in (*names, "groups")]
        return ", ".join(
            [*shown, f"deformable_groups={self.deformable_groups}", f"bias={self.bias is not None}"]
        )


class DeformConv(ModulatedDeformConv):
    """v1 (Dai et al. 2017): no mask, no bias by default, and geometry kept as pairs. Otherwise
    `ModulatedDeformConv`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, _pair(stride), _pair(padding), _pair(dilation),
            groups, deformable_groups, bias, norm, activation,
        )  # fmt: skip

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        return super().forward(x, offset, None)
