"""The demo's picture: what both models find on the held-out part, and where taps sample."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from .demo_data import Scene
from .demo_model import Detections, Figures
from .drawing import COLORS, draw_taps, new_figure
from .taps import Taps


def draw(
    path: str,
    scene: Scene,
    results: dict[str, tuple[Detections, Figures]],
    taps: list[Taps],
    min_score: float = 0.5,
) -> None:
    """Writes a panel for each model's detections and one for the taps."""
    height, width = scene.image.shape[1:]
    panels = len(results) + 1
    figure = new_figure(10, panels * (10 * height / width + 0.4))
    axes = figure.subplots(panels, 1)
    for ax, (name, (found, row)) in zip(axes, results.items(), strict=False):
        _show(
            ax,
            scene,
            f"{name} backbone: {row.found} of {row.coins} held-out coins, "
            f"mean IoU {row.mean_iou:.2f} (white: the outlines compared with)",
        )
        _detections(ax, scene, found, min_score)
    _show(
        axes[-1],
        scene,
        "where the nine taps of the last deformable layer sample, for three "
        "output pixels (circles: without offsets; area of a dot: its mask)",
    )
    axes[-1].set(xlim=(-24, width + 24), ylim=(height + 24, -24))  # taps may lie outside
    for color, one in zip(COLORS, taps, strict=False):
        draw_taps(axes[-1], one, color)
    figure.savefig(path)


def _show(ax: Axes, scene: Scene, title: str) -> None:
    ax.imshow(scene.image[0].numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize=9)
    ax.set_axis_off()
    ax.autoscale(False)


def _detections(ax: Axes, scene: Scene, found: Detections, min_score: float) -> None:
    for coin in scene.masks.numpy():
        ax.contour(coin, [0.5], colors="white", linewidths=0.8, linestyles="dotted")
    colors = matplotlib.colormaps["tab20"].colors
    shown = [row for row, score in enumerate(found.scores) if score >= min_score]
    for row in shown:
        color = colors[row % len(colors)]
        mask = found.masks[row].numpy()
        layer = np.zeros((*mask.shape, 4))
        layer[mask] = (*color, 0.45)
        ax.imshow(layer)
        x0, y0, x1, y1 = found.boxes[row].tolist()
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=color, linewidth=1.2))
        ax.text(x0, y0 - 2, f"{found.scores[row]:.2f}", color=color, fontsize=7)
