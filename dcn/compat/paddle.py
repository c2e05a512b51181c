"""PaddleDetection's `DeformableConvV2` as a PyTorch module, for its checkpoints."""

from torch import Tensor, nn

from .. import modules, prediction


class DeformableConvV2(nn.Module):
    """v2 (Zhu et al. 2019) under PaddleDetection's keys: `conv_offset.*` and `conv_dcn.*`.

    As there, `padding` is accepted and ignored: both convolutions keep the size of the map, the
    first with (kernel_size - 1) // 2, the second with that times `dilation`. Only `bias_attr` of
    Paddle's attributes has a meaning here: whether `conv_dcn` has a bias, which starts at 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias_attr: bool | None = None,
    ) -> None:
        super().__init__()
        same = (kernel_size - 1) // 2
        self.offset_channel = 2 * kernel_size**2
        self.mask_channel = kernel_size**2
        self.conv_offset = nn.Conv2d(
            in_channels, self.offset_channel + self.mask_channel, kernel_size, stride, same
        )
        self.conv_dcn = modules.DeformConv2d(
            in_channels, out_channels, kernel_size, stride, same * dilation, dilation, groups,
            bias=bool(bias_attr),
        )  # fmt: skip
        for parameter in (*self.conv_offset.parameters(), self.conv_dcn.bias):
            if parameter is not None:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, K, P, Q]`; dtypes and errors: `dcn.deform_conv2d`."""
        offset, mask = prediction.split(self.conv_offset(x))
        return self.conv_dcn(x, offset, mask)
