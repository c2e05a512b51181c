"""`dcn plot`: where the taps of a model sample in a photograph."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from .plot import sampling_points

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def main(argv: Sequence[str] | None = None) -> int:
    """Draws where the taps of some pixels sample, and prints what the offsets do."""
    if find_spec("matplotlib") is None:
        print("dcn plot needs matplotlib: pip install matplotlib")
        return 2
    arguments = _parse(argv)
    try:
        model = _load(arguments.model, arguments.checkpoint)
        image = _read(arguments.image, arguments.size)
        height, width = image.shape[1:]
        mean, deviation = (torch.tensor(one)[:, None, None] for one in (_MEAN, _DEVIATION))
        seen = (image - mean) / deviation if arguments.normalize else image
        picture = sampling_points(
            model,
            image,
            arguments.point or [(height / 2, width / 2)],
            inputs=(seen[None],),
            layers=arguments.layers,
            group=arguments.group,
        )
    except (ValueError, OSError, ImportError, AttributeError) as error:
        print(f"dcn plot: {error}")
        return 2
    picture.save(arguments.out)
    print(picture.stats)
    print(f"Taps followed through {', '.join(picture.layers)}. Picture: {arguments.out}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    def point(text: str) -> tuple[float, float]:
        y, x = map(float, text.split(","))
        return y, x

    parser = argparse.ArgumentParser(prog="dcn plot", description=main.__doc__)
    parser.add_argument("image", help="a photograph")
    parser.add_argument(
        "--model", required=True, metavar="MODULE:FUNCTION", help="a function that makes the model"
    )
    parser.add_argument("--checkpoint", help="its state dict, as torch.save writes it")
    parser.add_argument(
        "--point",
        type=point,
        action="append",
        metavar="Y,X",
        help="again for more; else the centre",
    )
    parser.add_argument("--layers", type=int, default=3, help="through how many of the last layers")
    parser.add_argument("--group", type=int, default=0, help="the offset group")
    parser.add_argument("--size", type=int, default=800, help="shrink a longer side to this, px")
    parser.add_argument(
        "--normalize", action="store_true", help="by ImageNet's mean and deviation; else 0..1"
    )
    parser.add_argument("--out", default="taps.png")
    return parser.parse_args(argv)


def _load(name: str, checkpoint: str | None) -> nn.Module:
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(f"expected --model MODULE:FUNCTION, but got {name}")
    sys.path.insert(0, "")  # as `python -m` does it
    model = getattr(import_module(module), function)()
    if checkpoint is not None:
        model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    return model


def _read(path: str, size: int) -> Tensor:
    """`[3, H, W]` in 0..1."""
    import numpy as np
    from PIL import Image

    photo = Image.open(path).convert("RGB")
    photo.thumbnail((size, size))
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255
