"""The ten layers that speed is measured on, from published models and others' benchmarks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One deformable convolution with a k x k kernel; letters as in the README."""

    name: str
    what: str
    N: int
    C: int
    H: int
    W: int
    K: int
    k: int = 3
    stride: int = 1
    pad: int = 1
    dilation: int = 1
    groups: int = 1
    offset_groups: int = 1
    mask: bool = True


LAYERS = [
    Layer("seed-small", "a small benchmark", N=2, C=64, H=32, W=32, K=64),
    Layer("seed-medium", "a medium benchmark", N=4, C=128, H=64, W=64, K=128),
    Layer("seed-large", "a large benchmark", N=2, C=256, H=128, W=128, K=256),
    Layer("paddle", "Paddle's optimisation case", N=6, C=512, H=19, W=34, K=256),
    Layer("deft", "DefT's 64-channel 64x64 layer", N=8, C=64, H=64, W=64, K=64),
    Layer("rcnn-c3", "Mask R-CNN R50 C3, 2 images 800x1344", N=2, C=128, H=100, W=168, K=128),
    Layer("rcnn-c4", "Mask R-CNN R50 C4", N=2, C=256, H=50, W=84, K=256),
    Layer("rcnn-c5", "Mask R-CNN R50 C5", N=2, C=512, H=25, W=42, K=512),
    Layer(
        "basicvsr++",
        "BasicVSR++ alignment, 16 offset groups",
        N=1,
        C=128,
        H=180,
        W=320,
        K=64,
        offset_groups=16,
    ),
    Layer("centernet", "CenterNet DLA-34, batch 16", N=16, C=64, H=128, W=128, K=64),
]

# Shapes that the ten layers leave out, on the medium one.
VARIANTS = [
    Layer("7x7", "a large kernel", N=4, C=128, H=64, W=64, K=128, k=7, pad=3),
    Layer("1x1", "one tap", N=4, C=128, H=64, W=64, K=128, k=1, pad=0),
    Layer("stride-2", "a strided layer", N=4, C=128, H=128, W=128, K=128, stride=2),
    Layer("2-offset-groups", "64 channels each", N=4, C=128, H=64, W=64, K=128, offset_groups=2),
    Layer("4-offset-groups", "32 channels each", N=4, C=128, H=64, W=64, K=128, offset_groups=4),
    Layer("8-channel-offsets", "16 groups", N=4, C=128, H=64, W=64, K=128, offset_groups=16),
    Layer("3-groups", "64 channels each", N=4, C=192, H=64, W=64, K=192, groups=3),
    Layer("32-groups", "ResNeXt's", N=4, C=256, H=64, W=64, K=256, groups=32),
    Layer("depthwise", "one channel each", N=4, C=128, H=64, W=64, K=128, groups=128),
    Layer("v1", "no mask", N=4, C=128, H=64, W=64, K=128, mask=False),
]
