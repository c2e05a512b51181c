"""Layers under the names, arguments and keys that other packages gave them; one module a family.

`mmcv`, `detectron2`, `dcnv2` (CharlesShang), `birefnet`, `paddle` (PaddleDetection), `video`
(BasicVSR++, ProPainter, EDVR). torchvision's names are those of `dcn` itself.
"""

from . import birefnet, dcnv2, detectron2, mmcv, paddle, video
from .keys import translate_keys

__all__ = ["birefnet", "dcnv2", "detectron2", "mmcv", "paddle", "translate_keys", "video"]
