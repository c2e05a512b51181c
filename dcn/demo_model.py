"""The demo's Mask R-CNN: how it is built, trained, and judged."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import masks_to_boxes

from .backbone import convert_backbone
from .demo_data import Scene
from .observe import Call, observe
from .optim import param_groups
from .taps import Taps, follow

DEFORMABLE_STAGES = ("layer2", "layer3", "layer4")
_CHANNELS = 128  # of the feature pyramid: half of the usual, for one class in one photograph


@dataclass
class Detections:
    """What a model finds in one image, best first: masks `[found, H, W]` of bool, scores, boxes."""

    masks: Tensor
    scores: Tensor
    boxes: Tensor


@dataclass
class Figures:
    """Held-out figures; see `judge`."""

    ap50: float
    mean_iou: float
    found: int
    coins: int
    false_alarms: int


def build_model(seed: int, deformable: bool) -> MaskRCNN:
    """A Mask R-CNN on a ResNet-18 with a feature pyramid, from scratch; equal seed, equal weights.

    The deformable one computes at first what the plain one computes.
    """
    torch.manual_seed(seed)
    body = resnet18(weights=None, norm_layer=nn.BatchNorm2d)
    backbone = BackboneWithFPN(
        body,
        {f"layer{stage}": str(stage - 1) for stage in (1, 2, 3, 4)},
        [64, 128, 256, 512],
        _CHANNELS,
    )
    model = MaskRCNN(
        backbone,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
        rpn_anchor_generator=AnchorGenerator(
            tuple((size,) for size in (24, 32, 48, 64, 96)), ((0.7, 1.0, 1.4),) * 5
        ),
        rpn_pre_nms_top_n_train=200,
        rpn_post_nms_top_n_train=100,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=128,
        box_batch_size_per_image=48,
        box_positive_fraction=0.33,
        box_head=TwoMLPHead(_CHANNELS * 7**2, 1024),
        box_predictor=FastRCNNPredictor(1024, 2),
        mask_head=MaskRCNNHeads(_CHANNELS, (128,) * 3, dilation=1),
        mask_predictor=MaskRCNNPredictor(128, 128, 2),
        box_score_thresh=0.05,
        _skip_resize=True,  # in training; `detect` sees to it afterwards
    )
    if deformable:
        convert_backbone(model, stages=DEFORMABLE_STAGES)
    return model


def _target(crop: Scene) -> dict[str, Tensor]:
    # masks_to_boxes gives the last pixel's index; a box ends one further.
    boxes = masks_to_boxes(crop.masks) + torch.tensor([0, 0, 1, 1], device=crop.masks.device)
    labels = torch.ones(len(boxes), dtype=torch.int64, device=crop.masks.device)
    return {"boxes": boxes, "labels": labels, "masks": crop.masks.to(torch.uint8)}


def train(
    model: MaskRCNN,
    batches: list[list[Scene]],
    device: torch.device,
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> Iterator[float]:
    """Trains in place, one step a batch, and yields each step's loss.

    With a `dtype` of 16 bits under autocast, in float16 with scaled losses.
    """
    torch.manual_seed(seed)  # the samplers of anchors and proposals draw from it
    model.train()
    groups = param_groups(model, lr=1e-3)
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in groups], total_steps=len(batches), pct_start=0.15
    )
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    for crops in batches:
        crops = [crop.to(device) for crop in crops]
        images = [crop.image.expand(3, -1, -1) for crop in crops]
        targets = [_target(crop) for crop in crops]
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        yield loss.item()


@torch.no_grad()
def detect(model: MaskRCNN, scene: Scene, device: torch.device) -> Detections:
    """What the model finds in a scene with a score above 0.05."""
    model.eval()
    height, width = scene.image.shape[1:]
    model.transform.min_size = (min(height, width),)  # shows the image at its own scale
    model.transform.max_size = max(height, width)
    (found,) = model([scene.image.to(device).expand(3, -1, -1)])
    found = {name: value.cpu() for name, value in found.items()}
    return Detections(found["masks"][:, 0] > 0.5, found["scores"], found["boxes"])


def sampled_taps(model: MaskRCNN, scene: Scene, device: torch.device, count: int = 3) -> list[Taps]:
    """What the last deformable layer samples for the output pixels nearest to `count` coins."""
    calls: list[Call] = []
    with observe(model, calls.append):
        detect(model, scene, device)
    x0, y0, x1, y1 = masks_to_boxes(scene.masks).unbind(1)
    centres = torch.stack([y0 + y1, x0 + x1], 1) / 2
    left_to_right = centres[centres[:, 1].argsort()]
    chosen = left_to_right[len(centres) // (2 * count) :: len(centres) // count]
    return follow(calls[-1:], tuple(scene.image.shape[1:]), chosen.tolist())


def overlaps(found: Tensor, coins: Tensor) -> Tensor:
    """Mask IoU `[found, coins]` of bool masks."""
    found, coins = found.flatten(1).float(), coins.flatten(1).float()
    both = found @ coins.T
    either = found.sum(1)[:, None] + coins.sum(1)[None] - both
    return both / either.clamp(min=1)


def match(iou: Tensor) -> list[int]:
    """The coin of each detection, -1 for none: best score first, IoU >= 0.5, each coin once."""
    free = torch.ones(iou.shape[1], dtype=torch.bool)
    coin_of = []
    for row in iou:
        candidates = torch.where(free, row, -1.0)
        best = int(candidates.argmax())
        coin_of.append(best if candidates[best] >= 0.5 else -1)
        if coin_of[-1] >= 0:
            free[best] = False
    return coin_of


def judge(found: Detections, coins: Tensor, min_score: float = 0.5) -> Figures:
    """Mask AP@0.5 over all detections, and mean IoU over all coins.

    AP is the area under the precision-recall curve, precision made monotonic. For the mean IoU
    detections with a score >= `min_score` count; a coin that none of them matches counts 0.
    """
    iou = overlaps(found.masks, coins)
    hits = torch.tensor([coin >= 0 for coin in match(iou)], dtype=torch.float64)
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    # The best precision at this recall or a higher one.
    envelope = precision.flip(0).cummax(0).values.flip(0) if len(hits) else precision
    sure = int((found.scores >= min_score).sum())
    coin_of = match(iou[:sure])
    matched = [float(iou[row, coin]) for row, coin in enumerate(coin_of) if coin >= 0]
    return Figures(
        ap50=float((envelope * hits).sum()) / len(coins),
        mean_iou=sum(matched) / len(coins),
        found=len(matched),
        coins=len(coins),
        false_alarms=sure - len(matched),
    )
