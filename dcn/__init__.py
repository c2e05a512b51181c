"""Deformable convolution (v1, and v2 with a mask) for PyTorch, on CPU and CUDA."""

from . import compat, onnx, plot, reference
from ._ops import version as __version__
from .autograd import DeformConv2dFunction
from .backbone import convert_backbone
from .conversion import convert
from .functional import deform_conv2d
from .modules import DeformConv2d, DeformConv2dPack, ModulatedDeformConv2dPack
from .offsets import offset_stats, warn_offsets
from .optim import param_groups
from .patch import patch_torchvision
from .planning import force_algorithm, last_plan, plan, why_not
from .prepack import prepack

__all__ = [
    "DeformConv2d",
    "DeformConv2dFunction",
    "DeformConv2dPack",
    "ModulatedDeformConv2dPack",
    "__version__",
    "compat",
    "convert",
    "convert_backbone",
    "deform_conv2d",
    "force_algorithm",
    "last_plan",
    "offset_stats",
    "onnx",
    "param_groups",
    "patch_torchvision",
    "plan",
    "plot",
    "prepack",
    "reference",
    "warn_offsets",
    "why_not",
]
