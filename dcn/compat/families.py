"""What the deformable layers of other packages look like, and which of ours computes the same."""

from .. import modules
from . import birefnet, dcnv2, detectron2, mmcv, video
from .recognition import Family, words

_NONE = frozenset({0})
_EMPTY_BATCH = frozenset({0, 9})  # without and with the shape of an empty output
_GEOMETRY = words("weight in_channels out_channels kernel_size stride padding dilation")
_V1 = _GEOMETRY | words("groups deform_groups")
_V2 = _V1 | {"bias"}
_CHARLES = _GEOMETRY | words("bias deformable_groups")
_D2 = _GEOMETRY | words("bias groups deformable_groups norm activation")
_V2_PACK = _V2 | {"conv_offset"}
_SPLIT = words("chunk sigmoid")
_THIRDS = frozenset({1, 3})  # torch.chunk(..., 3, dim=1)
_ALIGNMENT = _V2_PACK | {"max_residue_magnitude"}
_FLOW = words("conv_offset max_residue_magnitude tanh chunk cat sigmoid")
_BIREFNET = words("offset_conv modulator_conv regular_conv stride padding")

FAMILIES = (
    Family(
        "torchvision", words("DeformConv2d"), modules.DeformConv2d, 3,
        _GEOMETRY | words("bias groups"), _NONE,
    ),
    Family(
        "mmcv v1", words("DeformConv2d DeformConv"), mmcv.DeformConv2d, 2, _V1,
        frozenset({0, 4}),  # without and with the padding of small inputs
        may=words("pad max any zip"),
    ),
    Family(
        "mmcv v1 pack", words("DeformConv2dPack DeformConvPack"), mmcv.DeformConv2dPack, 1,
        _V1 | {"conv_offset"}, _NONE, needs=words("conv_offset"), numbers=frozenset(),
    ),
    Family(
        "mmcv v2", words("ModulatedDeformConv2d ModulatedDeformConv"), mmcv.ModulatedDeformConv2d,
        3, _V2, _NONE, numbers=frozenset(),
    ),
    Family(
        "mmcv v2 pack", words("ModulatedDeformConv2dPack ModulatedDeformConvPack"),
        mmcv.ModulatedDeformConv2dPack, 1, _V2_PACK, _NONE, needs=_SPLIT | {"conv_offset"},
        may=words("cat"), numbers=_THIRDS,
    ),
    Family(
        "detectron2 v1", words("DeformConv"), detectron2.DeformConv, 2, _D2, _EMPTY_BATCH,
        may=words("numel zip _NewEmptyTensorOp"),
    ),
    Family(
        "detectron2 v2", words("ModulatedDeformConv"), detectron2.ModulatedDeformConv, 3,
        _D2, _EMPTY_BATCH, may=words("numel zip _NewEmptyTensorOp"),
    ),
    Family("CharlesShang DCNv2", words("DCNv2"), dcnv2.DCNv2, 3, _CHARLES, frozenset({0, 5})),
    Family(
        "CharlesShang DCN", words("DCN"), dcnv2.DCN, 1, _CHARLES | {"conv_offset_mask"}, _NONE,
        needs=_SPLIT | {"conv_offset_mask"}, may=words("cat"), numbers=_THIRDS,
    ),
    Family(
        "BiRefNet", words("DeformableConv2d"), birefnet.DeformableConv2d, 1, _BIREFNET,
        frozenset({1}), needs=_BIREFNET | {"sigmoid"}, may=words("weight bias"),
        numbers=frozenset({2}),
    ),
    Family(
        "BasicVSR++", words("SecondOrderDeformableAlignment"),
        video.SecondOrderDeformableAlignment, 4, _ALIGNMENT, frozenset({5}),
        needs=_FLOW | words("flip repeat"), numbers=_THIRDS | {2},
    ),
    Family(
        "ProPainter flow completion", words("SecondOrderDeformableAlignment"),
        video.FlowGuidedDeformConv2d, 2, _ALIGNMENT, frozenset({1}), needs=_FLOW,
        numbers=_THIRDS | {2},
    ),
    Family(
        "ProPainter", words("DeformableAlignment"), video.FlowGuidedDeformConv2d, 3, _ALIGNMENT,
        frozenset({3}), needs=_FLOW | words("flip repeat"), numbers=_THIRDS | {2},
    ),
    Family(
        "EDVR", words("DCNv2Pack"), video.DCNv2Pack, 2, _V2_PACK, _NONE,
        needs=_SPLIT | {"conv_offset"},
        may=words("cat mean abs get_root_logger warning print LooseVersion __version__"),
        numbers=_THIRDS | {50},
    ),
)  # fmt: skip
