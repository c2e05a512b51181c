"""BiRefNet's `DeformableConv2d`: three convolutions, of which the third lends its weight."""

from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from .. import functional, prediction


class DeformableConv2d(nn.Module):
    """v2 (Zhu et al. 2019) that starts as a convolution: the mask is twice a sigmoid, so 1.

    Keys: `offset_conv.*`, `modulator_conv.*`, `regular_conv.*`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        kernel_size = _pair(kernel_size)
        taps = kernel_size[0] * kernel_size[1]
        self.stride = _pair(stride)
        self.padding = padding
        geometry = (kernel_size, self.stride, padding)
        self.offset_conv = nn.Conv2d(in_channels, 2 * taps, *geometry)
        self.modulator_conv = nn.Conv2d(in_channels, taps, *geometry)
        for parameter in (*self.offset_conv.parameters(), *self.modulator_conv.parameters()):
            nn.init.zeros_(parameter)
        self.regular_conv = nn.Conv2d(in_channels, out_channels, *geometry, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, K, P, Q]`; dtypes and errors: `dcn.deform_conv2d`."""
        return functional.deform_conv2d(
            x,
            self.offset_conv(x),
            self.regular_conv.weight,
            self.regular_conv.bias,
            self.stride,
            self.padding,
            mask=prediction.mask(self.modulator_conv(x), scale=2.0),
        )
