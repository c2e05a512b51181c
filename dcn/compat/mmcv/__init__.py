"""`mmcv.ops`: the same names, arguments, defaults, attributes and keys on dcn's operator."""

from .functions import deform_conv2d, modulated_deform_conv2d
from .layers import DeformConv2d, ModulatedDeformConv2d
from .packs import DeformConv2dPack, ModulatedDeformConv2dPack

__all__ = [
    "DeformConv2d",
    "DeformConv2dPack",
    "ModulatedDeformConv2d",
    "ModulatedDeformConv2dPack",
    "deform_conv2d",
    "modulated_deform_conv2d",
]
