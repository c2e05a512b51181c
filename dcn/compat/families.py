"""The deformable layers of other packages: who defines them, and which of ours is the same."""

from dataclasses import dataclass

from torch import nn

from .. import modules
from . import birefnet, dcnv2, detectron2, mmcv, video

# In mmdet 1 and BasicSR, which mmcv's layers come from.
_OLD_NAMES = {"deform_groups": "deformable_groups"}


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True)
class Family:
    """A layer of another package, known by the names of its class and of where that is defined.

    Packages are copied and changed, so the name of the class alone proves little: the path of its
    module must hold the name of the package, or of the file that is usually copied. The instance
    must have what the forward of `ours` reads.
    """

    name: str
    sources: frozenset[str]  # packages or files, each a part of the path `a.b.c` of the module
    classes: frozenset[str]
    ours: type[nn.Module]
    attributes: frozenset[str]

    def defines(self, cls: type) -> bool:
        return cls.__name__ in self.classes and bool(self.sources & {*cls.__module__.split(".")})

    def missing(self, layer: nn.Module) -> list[str]:
        """What the instance itself lacks: what its class has, goes with the class."""
        held = {*vars(layer), *layer._parameters, *layer._modules, *layer._buffers}
        return sorted(
            name for name in self.attributes if not {name, _OLD_NAMES.get(name, name)} & held
        )

    def adopt(self, layer: nn.Module) -> None:
        """Makes `layer` compute by dcn: the same object under our class."""
        for new, old in _OLD_NAMES.items():
            if new in self.attributes and not hasattr(layer, new):
                setattr(layer, new, getattr(layer, old))
        layer.__class__ = self.ours
        if isinstance(layer, modules.DeformConv2d):
            layer.drop_packed_weight()


def is_ours(layer: nn.Module) -> bool:
    """Whether dcn made the class of this layer, or one that it inherits."""
    package = __name__.partition(".")[0]
    return any(cls.__module__.partition(".")[0] == package for cls in type(layer).__mro__)


_GEOMETRY = words("weight in_channels out_channels kernel_size stride padding dilation")
_V1 = _GEOMETRY | words("groups deform_groups")
_V2 = _V1 | {"bias"}
_V2_PACK = _V2 | {"conv_offset"}
_CHARLES = _GEOMETRY | words("bias deformable_groups")
_D2 = _CHARLES | words("groups norm activation")
_ALIGNMENT = _V2_PACK | {"max_residue_magnitude"}
_BIREFNET = words("offset_conv modulator_conv regular_conv stride padding")
_MMCV = words("mmcv mmdet basicsr")  # the last two of before mmcv had them

FAMILIES = (
    Family(
        "torchvision", words("torchvision"), words("DeformConv2d"), modules.DeformConv2d,
        _GEOMETRY | words("bias groups"),
    ),
    Family("mmcv v1", _MMCV, words("DeformConv2d DeformConv"), mmcv.DeformConv2d, _V1),
    Family(
        "mmcv v1 pack", _MMCV, words("DeformConv2dPack DeformConvPack"), mmcv.DeformConv2dPack,
        _V1 | {"conv_offset"},
    ),
    Family(
        "mmcv v2", _MMCV, words("ModulatedDeformConv2d ModulatedDeformConv"),
        mmcv.ModulatedDeformConv2d, _V2,
    ),
    Family(
        "mmcv v2 pack", _MMCV, words("ModulatedDeformConv2dPack ModulatedDeformConvPack"),
        mmcv.ModulatedDeformConv2dPack, _V2_PACK,
    ),
    Family(
        "detectron2 v1", words("detectron2"), words("DeformConv"), detectron2.DeformConv, _D2,
    ),
    Family(
        "detectron2 v2", words("detectron2"), words("ModulatedDeformConv"),
        detectron2.ModulatedDeformConv, _D2,
    ),
    Family("CharlesShang DCNv2", words("dcn_v2"), words("DCNv2"), dcnv2.DCNv2, _CHARLES),
    Family(
        "CharlesShang DCN", words("dcn_v2"), words("DCN"), dcnv2.DCN,
        _CHARLES | {"conv_offset_mask"},
    ),
    Family(
        "BiRefNet", words("BiRefNet birefnet deform_conv"), words("DeformableConv2d"),
        birefnet.DeformableConv2d, _BIREFNET,
    ),
    Family(
        "BasicVSR++", words("basicvsr_pp basicvsr_plusplus_net basicvsrpp_arch"),
        words("SecondOrderDeformableAlignment"), video.SecondOrderDeformableAlignment, _ALIGNMENT,
    ),
    Family(
        "ProPainter flow completion", words("recurrent_flow_completion"),
        words("SecondOrderDeformableAlignment"), video.FlowGuidedDeformConv2d, _ALIGNMENT,
    ),
    Family(
        "ProPainter", words("propainter"), words("DeformableAlignment"),
        video.FlowGuidedDeformConv2d, _ALIGNMENT,
    ),
    Family("EDVR", words("arch_util"), words("DCNv2Pack"), video.DCNv2Pack, _V2_PACK),
    Family("EDVR", words("edvr_net"), words("ModulatedDCNPack"), video.DCNv2Pack, _V2_PACK),
)  # fmt: skip
