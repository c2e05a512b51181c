"""CharlesShang's DCNv2 and its forks (CenterNet, FairMOT, YOLACT++): `dcn_v2.py` by other means."""

from torch import Tensor, nn

from .. import modules, prediction
from .operator import call, uniform_


def dcn_v2_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    deformable_groups: int,
) -> Tensor:
    """v2; shapes, dtypes and errors are those of `dcn.deform_conv2d`."""
    return call(input, offset, mask, weight, bias, stride, padding, dilation, 1, deformable_groups)


class DCNv2(modules.DeformConv2d):
    """v2 (Zhu et al. 2019) with a bias and without groups; offset and mask from elsewhere."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int],
        padding: int | tuple[int, int],
        dilation: int | tuple[int, int] = 1,
        deformable_groups: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation)
        self.deformable_groups = deformable_groups

    def reset_parameters(self) -> None:
        uniform_(self)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return call(
            input, offset, mask, self.weight, self.bias, self.stride, self.padding, self.dilation,
            1, self.deformable_groups, self.packed_weight_for(self.deformable_groups),
        )  # fmt: skip

    __repr__ = nn.Module.__repr__


class DCN(DCNv2):
    """`DCNv2` that predicts offset and mask by `conv_offset_mask`; the mask starts at 0.5.

    As there, `conv_offset_mask` is not dilated: a dilation must be made up for by the padding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int],
        padding: int | tuple[int, int],
        dilation: int | tuple[int, int] = 1,
        deformable_groups: int = 1,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, deformable_groups
        )
        self.conv_offset_mask = nn.Conv2d(
            in_channels,
            3 * deformable_groups * self.kernel_size[0] * self.kernel_size[1],
            self.kernel_size,
            self.stride,
            self.padding,
        )
        self.init_offset()

    def init_offset(self) -> None:
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input, *prediction.split(self.conv_offset_mask(input)))
