"""Layers as other packages have them, in plain PyTorch: their classes, attributes and forwards.

Each forward is the documented formula under the package's names, `__module__` the place where the
class is defined there; the packages are not installed.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.utils import _pair

from dcn import reference

torchvision = SimpleNamespace(ops=SimpleNamespace(deform_conv2d=reference.deform_conv2d))


def modulated_deform_conv2d(x, offset, mask, weight, bias, stride, padding, dilation, groups, dg):
    """mmcv's and detectron2's v2; `groups` and `dg` follow from the shapes."""
    return reference.deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)


def deform_conv2d(x, offset, weight, stride, padding, dilation, groups, dg, bias=False, step=32):
    """mmcv's v1."""
    return reference.deform_conv2d(x, offset, weight, None, stride, padding, dilation)


def deform_conv(x, offset, weight, stride, padding, dilation, groups, dg):
    """detectron2's v1."""
    return reference.deform_conv2d(x, offset, weight, None, stride, padding, dilation)


def dcn_v2_conv(x, offset, mask, weight, bias, stride, padding, dilation, deformable_groups):
    """CharlesShang's."""
    return reference.deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)


class _Layer(nn.Module):
    """Parameters that no initialisation makes zero, so that offsets do something."""

    def __init__(self, c, k, kernel, stride=1, padding=0, dilation=1, groups=1, dg=1, bias=True):
        super().__init__()
        self.in_channels, self.out_channels, self.groups = c, k, groups
        self.kernel_size, self.stride = _pair(kernel), _pair(stride)
        self.padding, self.dilation = _pair(padding), _pair(dilation)
        self.set_offset_groups(dg)
        self.weight = nn.Parameter(torch.rand(k, c // groups, *self.kernel_size) - 0.5)
        if bias:
            self.bias = nn.Parameter(torch.rand(k))

    def set_offset_groups(self, dg):
        self.deform_groups = dg

    def predictor(self, per_tap, dilation):
        dg = getattr(self, "deform_groups", None) or self.deformable_groups
        channels = per_tap * dg * self.kernel_size[0] * self.kernel_size[1]
        geometry = (self.kernel_size, self.stride, self.padding, dilation)
        return nn.Conv2d(self.in_channels, channels, *geometry)


class DeformConv2d(_Layer):
    __module__ = "mmcv.ops.deform_conv"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, bias=False)

    def forward(self, x, offset):
        small = x.size(2) < self.kernel_size[0] or x.size(3) < self.kernel_size[1]
        if small:
            pad_h = max(self.kernel_size[0] - x.size(2), 0)
            pad_w = max(self.kernel_size[1] - x.size(3), 0)
            x, offset = F.pad(x, (0, pad_w, 0, pad_h)), F.pad(offset, (0, pad_w, 0, pad_h))
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        out = deform_conv2d(x, offset, self.weight, *geometry)
        return out[:, :, : out.size(2) - pad_h, : out.size(3) - pad_w] if small else out


class DeformConv2dPack(DeformConv2d):
    __module__ = "mmcv.ops.deform_conv"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv_offset = self.predictor(2, self.dilation)

    def forward(self, x):
        offset = self.conv_offset(x)
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        return deform_conv2d(x, offset, self.weight, *geometry)


class ModulatedDeformConv2d(_Layer):
    __module__ = "mmcv.ops.modulated_deform_conv"

    def forward(self, x, offset, mask):
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        return modulated_deform_conv2d(x, offset, mask, self.weight, self.bias, *geometry)


class ModulatedDeformConv2dPack(ModulatedDeformConv2d):
    __module__ = "mmcv.ops.modulated_deform_conv"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv_offset = self.predictor(3, self.dilation)

    def forward(self, x):
        first, second, mask = torch.chunk(self.conv_offset(x), 3, dim=1)
        offset, mask = torch.cat((first, second), dim=1), torch.sigmoid(mask)
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        return modulated_deform_conv2d(x, offset, mask, self.weight, self.bias, *geometry)


class ModulatedDeformConvPack(ModulatedDeformConv2dPack):
    """mmdet 1 and BasicSR: an older name of the class, and of its offset groups."""

    __module__ = "mmdet.ops.dcn.deform_conv"

    def set_offset_groups(self, dg):
        self.deformable_groups = dg

    def forward(self, x):
        first, second, mask = torch.chunk(self.conv_offset(x), 3, dim=1)
        offset, mask = torch.cat((first, second), dim=1), torch.sigmoid(mask)
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deformable_groups)
        return modulated_deform_conv2d(x, offset, mask, self.weight, self.bias, *geometry)


class DCNv2Pack(ModulatedDeformConv2dPack):
    """EDVR."""

    __module__ = "basicsr.archs.arch_util"

    def forward(self, x, feat):
        first, second, mask = torch.chunk(self.conv_offset(feat), 3, dim=1)
        offset, mask = torch.cat((first, second), dim=1), torch.sigmoid(mask)
        if torch.mean(torch.abs(offset)) > 50:
            print("large offsets")
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        return modulated_deform_conv2d(x, offset, mask, self.weight, self.bias, *geometry)


class ModulatedDCNPack(DCNv2Pack):
    """EDVR, as mmagic has it."""

    __module__ = "mmagic.models.editors.edvr.edvr_net"


class SecondOrderDeformableAlignment(ModulatedDeformConv2d):
    __module__ = "mmagic.models.editors.basicvsr_plusplus.basicvsr_plusplus_net"

    def __init__(self, *args, max_residue_magnitude=10, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_residue_magnitude = max_residue_magnitude
        self.conv_offset = nn.Sequential(
            nn.Conv2d(3 * self.out_channels + 4, 27 * self.deform_groups, 3, 1, 1)
        )

    def forward(self, x, extra_feat, flow_1, flow_2):
        extra_feat = torch.cat([extra_feat, flow_1, flow_2], dim=1)
        first, second, mask = torch.chunk(self.conv_offset(extra_feat), 3, dim=1)
        offset = self.max_residue_magnitude * torch.tanh(torch.cat((first, second), dim=1))
        offset_1, offset_2 = torch.chunk(offset, 2, dim=1)
        offset_1 = offset_1 + flow_1.flip(1).repeat(1, offset_1.size(1) // 2, 1, 1)
        offset_2 = offset_2 + flow_2.flip(1).repeat(1, offset_2.size(1) // 2, 1, 1)
        offset, mask = torch.cat([offset_1, offset_2], dim=1), torch.sigmoid(mask)
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        return modulated_deform_conv2d(x, offset, mask, self.weight, self.bias, *geometry)


class DeformableAlignment(ModulatedDeformConv2d):
    """ProPainter."""

    __module__ = "model.propainter"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_residue_magnitude = 3
        self.conv_offset = nn.Conv2d(self.in_channels, 27 * self.deform_groups, 3, 1, 1)

    def forward(self, x, cond_feat, flow):
        first, second, mask = torch.chunk(self.conv_offset(cond_feat), 3, dim=1)
        offset = self.max_residue_magnitude * torch.tanh(torch.cat((first, second), dim=1))
        offset = offset + flow.flip(1).repeat(1, offset.size(1) // 2, 1, 1)
        mask = torch.sigmoid(mask)
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        return modulated_deform_conv2d(x, offset, mask, self.weight, self.bias, *geometry)


class FlowCompletionAlignment(DeformableAlignment):
    """ProPainter's other layer, which there has BasicVSR++'s name."""

    __module__ = "model.recurrent_flow_completion"

    def forward(self, x, extra_feat):
        first, second, mask = torch.chunk(self.conv_offset(extra_feat), 3, dim=1)
        offset = self.max_residue_magnitude * torch.tanh(torch.cat((first, second), dim=1))
        mask = torch.sigmoid(mask)
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        return modulated_deform_conv2d(x, offset, mask, self.weight, self.bias, *geometry)


FlowCompletionAlignment.__name__ = "SecondOrderDeformableAlignment"


class DCNv2(_Layer):
    __module__ = "dcn_v2"

    def set_offset_groups(self, dg):
        self.deformable_groups = dg

    def forward(self, input, offset, mask):
        kernel_h, kernel_w = self.kernel_size
        assert 2 * self.deformable_groups * kernel_h * kernel_w == offset.shape[1]
        assert self.deformable_groups * kernel_h * kernel_w == mask.shape[1]
        geometry = (self.stride, self.padding, self.dilation, self.deformable_groups)
        return dcn_v2_conv(input, offset, mask, self.weight, self.bias, *geometry)


class DCN(DCNv2):
    __module__ = "models.networks.DCNv2.dcn_v2"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv_offset_mask = self.predictor(3, 1)

    def forward(self, input):
        first, second, mask = torch.chunk(self.conv_offset_mask(input), 3, dim=1)
        offset, mask = torch.cat((first, second), dim=1), torch.sigmoid(mask)
        geometry = (self.stride, self.padding, self.dilation, self.deformable_groups)
        return dcn_v2_conv(input, offset, mask, self.weight, self.bias, *geometry)


class _NewEmptyTensorOp:
    apply = staticmethod(torch.empty)


class ModulatedDeformConv(_Layer):
    """detectron2."""

    __module__ = "detectron2.layers.deform_conv"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm, self.activation = None, F.relu

    def set_offset_groups(self, dg):
        self.deformable_groups = dg

    def forward(self, x, offset, mask):
        if x.numel() == 0:
            shape = [
                (size + 2 * pad - (dil * (taps - 1) + 1)) // step + 1
                for size, pad, dil, taps, step in zip(
                    x.shape[-2:], self.padding, self.dilation, self.kernel_size, self.stride,
                    strict=True,
                )
            ]  # fmt: skip
            return _NewEmptyTensorOp.apply([x.shape[0], self.weight.shape[0]] + shape)  # noqa: RUF005
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deformable_groups)
        x = modulated_deform_conv2d(x, offset, mask, self.weight, self.bias, *geometry)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class DeformConv(ModulatedDeformConv):
    __module__ = "detectron2.layers.deform_conv"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, bias=False)
        self.bias = None
        self.norm = nn.GroupNorm(1, self.out_channels)

    def forward(self, x, offset):
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.deformable_groups)
        x = deform_conv(x, offset, self.weight, *geometry)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class DeformableConv2d(nn.Module):
    """BiRefNet."""

    __module__ = "models.modules.deform_conv"

    def __init__(self, c, k, kernel=3, stride=1, padding=1, bias=False):
        super().__init__()
        self.stride, self.padding = _pair(stride), padding
        geometry = (kernel, stride, padding)
        self.offset_conv = nn.Conv2d(c, 2 * kernel**2, *geometry)
        self.modulator_conv = nn.Conv2d(c, kernel**2, *geometry)
        self.regular_conv = nn.Conv2d(c, k, *geometry, bias=bias)

    def forward(self, x):
        offset = self.offset_conv(x)
        modulator = 2.0 * torch.sigmoid(self.modulator_conv(x))
        return torchvision.ops.deform_conv2d(
            input=x,
            offset=offset,
            weight=self.regular_conv.weight,
            bias=self.regular_conv.bias,
            padding=self.padding,
            mask=modulator,
            stride=self.stride,
        )
