"""What the pictures are drawn with; needs matplotlib."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .taps import Taps

if TYPE_CHECKING:
    from .plot import SamplingPicture

COLORS = ("tab:orange", "tab:cyan", "tab:pink", "tab:green", "tab:red", "tab:purple")


def new_figure(width: float, height: float) -> Figure:
    """A figure, in inches, apart from pyplot: no window, no state."""
    figure = Figure((width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def draw_taps(ax: Axes, taps: Taps, color: str) -> None:
    """Circles where taps lie without offsets, dots where they sample, and a cross at the pixel.

    The area of a dot is its mask. A line joins the two of each tap as long as they are few.
    """
    (y, x), (sampled_y, sampled_x) = taps.regular.numpy().T, taps.sampled.numpy().T
    few = len(taps.regular) <= 50
    if few:
        ax.scatter(x, y, s=22, facecolors="none", edgecolors=color, linewidths=0.8)
        ax.plot([x, sampled_x], [y, sampled_y], color=color, linewidth=0.8)
    ax.scatter(
        sampled_x, sampled_y, s=(30 if few else 8) * taps.mask.numpy(), color=color, linewidths=0
    )
    ax.plot(*taps.centre.flip(0).tolist(), marker="+", markersize=12, color=color)


def sampling_figure(picture: SamplingPicture) -> Figure:
    """The image with its taps; beside it the lengths of offsets, and the shares outside."""
    height, width = picture.image.shape[1:]
    figure = new_figure(11, max(4.0, 6.5 * height / width))
    left, right = figure.subfigures(1, 2, width_ratios=(1.7, 1))
    ax = left.subplots()
    _show(ax, picture.image)
    for i, taps in enumerate(picture.taps):
        draw_taps(ax, taps, COLORS[i % len(COLORS)])
    x0, x1, y1, y0 = *ax.get_xlim(), *ax.get_ylim()
    ax.set_xlim(max(x0, -width / 2), min(x1, 1.5 * width))  # a few may be far off
    ax.set_ylim(min(y1, 1.5 * height), max(y0, -height / 2))
    ax.set_title("where taps sample, through " + ", ".join(picture.layers), fontsize=9)
    top, bottom = right.subplots(2, 1)
    _histograms(top, picture)
    _outside(bottom, picture)
    return figure


def _show(ax: Axes, image: torch.Tensor) -> None:
    pixels = image.float()
    if pixels.min() < 0 or pixels.max() > 1:
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    if len(pixels) == 3:
        ax.imshow(pixels.permute(1, 2, 0).numpy())
    else:
        ax.imshow(pixels.mean(0).numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_axis_off()


def _histograms(ax: Axes, picture: SamplingPicture) -> None:
    edges, shares = picture.histograms.edges, picture.histograms.shares
    colors = matplotlib.colormaps["viridis"].resampled(len(shares)).colors
    for color, (layer, share) in zip(colors, shares.items(), strict=True):
        ax.stairs(share.numpy(), edges.numpy(), color=color, label=layer)
    ax.set_yscale("log", nonpositive="clip")
    ax.set_ylim(1e-4, 1.5)
    ax.set_xlabel("length of offsets, px of the layer's input", fontsize=8)
    ax.set_ylabel("share", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=6, ncols=1 + len(shares) // 10)


def _outside(ax: Axes, picture: SamplingPicture) -> None:
    rows = list(picture.stats)
    places = range(len(rows))
    ax.barh(places, [100 * row.outside for row in rows], color="tab:blue")
    before = [100 * row.outside_before for row in rows]
    ax.plot(before, places, "|", color="black", label="without offsets")
    ax.set_yticks(places, [row.layer for row in rows])
    ax.invert_yaxis()
    ax.set_xlabel("samples outside the map, %", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=6)
