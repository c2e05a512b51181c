"""Where a model samples, as a picture and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .observe import Call, run_observed
from .offsets import OffsetStats, Tally
from .taps import Taps, follow


@dataclass(frozen=True)
class Histograms:
    """How long the offsets of each layer are, in px of its input."""

    edges: Tensor  # [bins + 1]
    shares: dict[str, Tensor]  # [bins] for each layer, of its finite offsets


@dataclass(frozen=True)
class SamplingPicture:
    """What `sampling_points` found. A notebook shows it; `save` writes it."""

    image: Tensor  # [C, H, W]
    layers: list[str]  # those that the taps were followed through, first to last
    taps: list[Taps]  # one for each point
    stats: OffsetStats  # of every deformable layer that ran
    histograms: Histograms

    def save(self, path: str | Path) -> None:
        """Writes a PNG."""
        Path(path).write_bytes(self._repr_png_())

    def _repr_png_(self) -> bytes:
        from . import drawing  # needs matplotlib

        return drawing.png(drawing.sampling_figure(self))


def sampling_points(
    model: nn.Module,
    image: Tensor,
    points: Sequence[tuple[float, float]],
    *,
    inputs: Sequence[object] | None = None,
    layers: int | Sequence[str] = 3,
    group: int = 0,
) -> SamplingPicture:
    """Where the taps of some pixels sample in an image (the figure of Dai et al. 2017).

    An output pixel of the last layer has R*S taps, each of which has R*S in the layer before:
    (R*S)^L points through L layers. `dcn.taps.follow` says how they are followed. The model runs
    once, in evaluation mode and without gradients; its mode is restored.

    Args:
        model: a model, or a single deformable module.
        image: `[C, H, W]` or `[1, C, H, W]`, on any device.
        points: `(y, x)` in px of the image.
        inputs: what the model is called with; by default the image alone, as a batch of one, on the
            device and in the dtype of the model's parameters. The map of the first image is drawn.
        layers: how many of the last deformable layers at most, or their paths. They should follow
            each other in the model: which feeds which is not looked at.
        group: the offset group.

    Returns:
        A picture: `.save("taps.png")`, or the last line of a notebook's cell; and its numbers:
        `.taps`, `.stats`, `.histograms`.

    Raises:
        ValueError: no layer ran, a named one did not run, or a point or group does not exist.
    """
    image = image.detach()[0] if image.dim() == 4 else image.detach()
    height, width = image.shape[1:]
    for y, x in points:
        if not (0 <= y < height and 0 <= x < width):
            raise ValueError(
                f"sampling_points: expected points (y, x) in an image of {height} x {width} px, "
                f"but got ({y}, {x})"
            )
    if inputs is None:
        example = next(model.parameters(), image)
        inputs = (image[None].to(example.device, example.dtype),)
    calls: list[Call] = []
    run_observed(model, tuple(inputs), {}, calls.append)
    chosen = _choose(calls, layers)
    for call in chosen:
        if not 0 <= group < call.offset_groups:
            raise ValueError(
                f"sampling_points: {call.layer} has {call.offset_groups} offset group(s), "
                f"but got group {group}"
            )
    tally = Tally()
    for call in calls:
        tally.add(call)
    taps = follow(chosen, (height, width), points, group)
    names = [call.layer for call in chosen]
    return SamplingPicture(image.cpu(), names, taps, tally.stats(), offset_histograms(calls))


def _choose(calls: list[Call], layers: int | Sequence[str]) -> list[Call]:
    if not calls:
        raise ValueError("sampling_points: no deformable convolution of dcn ran in this model")
    if isinstance(layers, int):
        if layers < 1:
            raise ValueError(f"sampling_points: expected one layer or more, but got {layers}")
        return calls[-layers:]
    latest = {call.layer: call for call in calls}
    for name in layers:
        if name not in latest:
            raise ValueError(
                f"sampling_points: no deformable layer {name!r} ran; {', '.join(latest)} did"
            )
    return [call for call in latest.values() if call.layer in layers]


def offset_histograms(calls: Sequence[Call], bins: int = 40) -> Histograms:
    """Of every layer in `calls`, over the same `bins` from 0 to the longest offset of all."""
    lengths: dict[str, list[Tensor]] = {}
    for call in calls:
        length = call.lengths.flatten().cpu()
        lengths.setdefault(call.layer, []).append(length[length.isfinite()])
    joined = {layer: torch.cat(parts) for layer, parts in lengths.items()}
    longest = max([1e-6, *(length.max().item() for length in joined.values() if len(length))])
    shares = {
        layer: torch.histc(length, bins, 0, longest) / max(len(length), 1)
        for layer, length in joined.items()
    }
    return Histograms(torch.linspace(0, longest, bins + 1), shares)
