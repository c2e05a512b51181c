"""The demo's data: a photograph of coins, its instance masks, the split in space, and crops."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from skimage import data, filters, segmentation
from torch import Tensor
from torch.nn import functional as F

SPLIT_ROW = 150  # between the second and the third row of coins: no coin lies on both sides
_MIN_COIN_AREA = 500  # px; the smallest coin has 1077, the largest speck 20


@dataclass
class Scene:
    """A part of the photograph: `image [1, H, W]` in 0..1, `masks [coins, H, W]` of bool."""

    image: Tensor
    masks: Tensor

    def to(self, device: torch.device) -> "Scene":
        return Scene(self.image.to(device), self.masks.to(device))


def segment(photo: np.ndarray) -> np.ndarray:
    """Instance masks `[coins, H, W]` of a grey photograph, by a watershed on its edges.

    Certain background (dark) and certain coin (bright) are the markers; edges decide the rest.
    """
    markers = np.zeros(photo.shape, dtype=np.int32)
    markers[photo < 30] = 1
    markers[photo > 150] = 2
    coins = segmentation.watershed(filters.sobel(photo), markers) == 2
    labels, count = ndimage.label(ndimage.binary_fill_holes(coins))
    masks = labels == np.arange(1, count + 1)[:, None, None]
    return masks[masks.sum((1, 2)) >= _MIN_COIN_AREA]


def scenes() -> tuple[Scene, Scene]:
    """The upper part, to learn on, and the lower part, to judge on: no pixel is in both."""
    photo = data.coins()
    masks = torch.from_numpy(segment(photo))
    image = torch.from_numpy(photo)[None].float() / 255
    upper, lower = slice(0, SPLIT_ROW), slice(SPLIT_ROW, None)
    return tuple(
        Scene(image[:, part], masks[masks[:, part].any((1, 2))][:, part]) for part in (upper, lower)
    )


def random_crop(scene: Scene, size: int, generator: torch.Generator) -> Scene:
    """A square crop of `size` px: random place, scale, flip, quarter turn, brightness, contrast."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    height, width = scene.image.shape[1:]
    side = min(round(size * uniform(0.6, 1.15)), height, width)
    top, left = round(uniform(0, height - side)), round(uniform(0, width - side))
    turns, flip = int(uniform(0, 4)), uniform(0, 1) < 0.5
    planes = torch.cat([scene.image, scene.masks.float()])
    planes = planes[:, top : top + side, left : left + side]
    planes = F.interpolate(planes[None], (size, size), mode="bilinear", antialias=True)[0]
    planes = torch.rot90(planes, turns, (1, 2))
    planes = planes.flip(2) if flip else planes
    image = (planes[:1] - 0.5) * uniform(0.8, 1.25) + 0.5 + uniform(-0.1, 0.1)
    masks = planes[1:] > 0.5
    # A sliver at the border is no example of a coin, and its box may have no area.
    return Scene(image, masks[masks.sum((1, 2)) >= 64])


def draw_batches(scene: Scene, steps: int, batch: int, size: int, seed: int) -> list[list[Scene]]:
    """`steps` batches of random crops, each crop with at least one coin."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(steps):
        crops: list[Scene] = []
        while len(crops) < batch:
            crop = random_crop(scene, size, generator)
            crops += [crop] if len(crop.masks) else []
        batches.append(crops)
    return batches
