"""mmcv's modules that take their offsets from elsewhere."""

import warnings

from torch import Tensor, nn
from torch.nn.modules.utils import _single

from ... import modules
from ..operator import uniform_
from .functions import in_offset_dtype, refuse_bias


class _Layer(modules.DeformConv2d):
    """What both versions share: `deform_groups`, and attributes that mmcv's `ConvModule` reads."""

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
        bias: bool | str = True,
        deformable_groups: int | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bool(bias)
        )
        if deformable_groups is not None:
            if deform_groups != 1:
                raise ValueError(
                    "deformable_groups is the old name of deform_groups, but both were passed: "
                    f"{deformable_groups} and {deform_groups}"
                )
            mro = type(self).__mro__
            constructors = sum("__init__" in vars(cls) for cls in mro[: mro.index(_Layer) + 1])
            warnings.warn(
                f'"deformable_groups" is deprecated in `{type(self).__name__}`, '
                'please use "deform_groups" instead',
                DeprecationWarning,
                stacklevel=1 + constructors,  # the caller's line
            )
            deform_groups = deformable_groups
        self.deform_groups = deform_groups
        self.transposed = False
        self.output_padding = _single(0)

    def _convolve(
        self, x: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        return in_offset_dtype(
            x, offset, mask, self.weight, bias, self.stride, self.padding, self.dilation,
            self.groups, self.deform_groups, self.packed_weight_for(self.deform_groups),
        )  # fmt: skip


class DeformConv2d(_Layer):
    """v1 (Dai et al. 2017). Inputs smaller than the kernel are fine as they are: the zeros that
    mmcv pads them with, and crops from the output, are what samples outside have anyway.
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
        deform_groups: int = 1,
        bias: bool = False,
        im2col_step: int = 32,
        deformable_groups: int | None = None,
    ) -> None:
        refuse_bias(bias)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
            deform_groups, False, deformable_groups,
        )  # fmt: skip
        self.im2col_step = im2col_step

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        return self._convolve(x, offset, None, None)

    def __repr__(self) -> str:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
        values = [f"{name}={getattr(self, name)}" for name in (*names, "groups", "deform_groups")]
        lines = ",\n".join([*values, "bias=False"])
        return f"{type(self).__name__}({lines})"


class ModulatedDeformConv2d(_Layer):
    """v2 (Zhu et al. 2019)."""

    def reset_parameters(self) -> None:
        self.init_weights()

    def init_weights(self) -> None:
        uniform_(self)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return self._convolve(x, offset, mask, self.bias)

    __repr__ = nn.Module.__repr__
