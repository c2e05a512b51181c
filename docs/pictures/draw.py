"""Draws the pictures of docs/how_it_works.md: python docs/pictures/draw.py"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, PANEL, TOP = 960, 330, 44
COLORS = {
    "device memory": "#e8eef7",
    "shared memory": "#eaf5e6",
    "registers": "#fdf1dc",
    "arithmetic": "#f9e4e4",
}
# The levels of memory, from far to near: y and height within a panel.
LEVELS = {
    "device memory": (0, 92),
    "shared memory": (100, 66),
    "registers": (174, 66),
    "arithmetic": (248, 58),
}
# Of the backward picture, whose pieces go through them downwards; a level may come twice.
STATIONS = {
    "device memory": (0, 74),
    "shared memory": (82, 74),
    "registers": (164, 74),
    "arithmetic": (246, 58),
    "registers, after": (312, 74),
    "device memory, after": (394, 66),
}
LEFT = 124  # of the levels' content


class Panel:
    """One algorithm: boxes at the level of memory where the data lie, arrows where they go."""

    def __init__(
        self, y: int, title: str, levels: dict[str, tuple[int, int]], above: int = 14
    ) -> None:
        self._y, self._levels, self.parts = y, levels, []
        self._text(12, y - above, title, size=15, bold=True, anchor="start")
        for level, (top, height) in levels.items():
            name = level.split(",")[0]
            color = COLORS[name]
            self.parts.append(
                f'<rect x="8" y="{y + top}" width="{WIDTH - 16}" height="{height}" rx="6" '
                f'fill="{color}"/>'
            )
            self._text(18, y + top + height / 2, name, anchor="start", color="#555")

    def _text(self, x, y, text, size=12, bold=False, anchor="middle", color="#111") -> None:
        lines, weight = text.split("\n"), "bold" if bold else "normal"
        for i, line in enumerate(lines):
            offset = (i - (len(lines) - 1) / 2) * size * 1.25
            self.parts.append(
                f'<text x="{x}" y="{y + offset + size * 0.35:.1f}" font-size="{size}" '
                f'fill="{color}" text-anchor="{anchor}" font-weight="{weight}">'
                f"{escape(line)}</text>"
            )

    def box(self, level: str, x: int, width: int, text: str) -> tuple[float, float, float, float]:
        """A box across a level; returns left, top, right, bottom."""
        top, height = self._levels[level]
        x, y, height = LEFT + x, self._y + top + 9, height - 18
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="white" '
            f'stroke="#444"/>'
        )
        self._text(x + width / 2, y + height / 2, text)
        return x, y, x + width, y + height

    def heading(self, x: float, y: float, text: str) -> None:
        self._text(x, y, text, 13, bold=True)

    def note(self, right: float, y: float, text: str) -> None:
        self._text(right, y, text, 11, anchor="end", color="#1f4e9c")

    def arrow(self, start: tuple, end: tuple, text: str = "", right: bool = True) -> None:
        (x1, y1), (x2, y2) = start, end
        self.parts.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#1f4e9c" stroke-width="1.6" '
            f'marker-end="url(#head)"/>'
        )
        if text:
            side, anchor = (7, "start") if right else (-7, "end")
            x, y = (x1 + x2) / 2 + side, (y1 + y2) / 2
            self._text(x, y, text, 11, anchor=anchor, color="#1f4e9c")


def im2col(y: int) -> Panel:
    levels = {name: LEVELS[name] for name in ("device memory", "registers", "arithmetic")}
    panel = Panel(y, "im2col_gemm: two kernels, and the columns between them", levels)
    image = panel.box("device memory", 0, 150, "image\n[N, H, W, C]\noffset, mask")
    columns = panel.box("device memory", 240, 210, "columns\n[pixels, R·S·C]\nR·S times the image")
    weight = panel.box("device memory", 500, 120, "weight\n[K, R·S·C]")
    output = panel.box("device memory", 690, 130, "output\n[pixels, K]")
    mixed = panel.box("registers", 60, 250, "four corners of a sample, mixed:\nvectors of channels")
    sums = panel.box("registers", 640, 180, "sums of a tile, f32")
    gemm = panel.box("arithmetic", 400, 420, "cuBLAS on tensor cores")
    panel.arrow((image[0] + 75, image[3]), (image[0] + 75, mixed[1]), "gather")
    panel.arrow((mixed[2] - 40, mixed[1]), (mixed[2] - 40, columns[3]), "write")
    panel.arrow(
        (columns[2] - 30, columns[3]), (columns[2] - 30, gemm[1]), "read again", right=False
    )
    panel.arrow((weight[0] + 60, weight[3]), (weight[0] + 60, gemm[1]))
    panel.arrow((sums[0] + 90, gemm[1]), (sums[0] + 90, sums[3]))
    panel.arrow((output[0] + 65, sums[1]), (output[0] + 65, output[3]), "store")
    return panel


def fused(y: int) -> Panel:
    panel = Panel(y, "fused, forward: one kernel, no columns in memory", LEVELS)
    image = panel.box("device memory", 0, 150, "image\n[N, H, W, C]\noffset, mask")
    weight = panel.box("device memory", 400, 190, "weight, packed once a call\nin the order of use")
    output = panel.box("device memory", 690, 130, "output\n[pixels, K]")
    plan = panel.box(
        "shared memory", 60, 250, "plan of up to nine taps:\ncorners and their weights"
    )
    ring = panel.box("shared memory", 400, 190, "ring of weight tiles")
    a = panel.box("registers", 60, 250, "four corners, mixed: fragments of A,\n16 pixels a warp")
    sums = panel.box("registers", 600, 220, "sums, f32\n64 pixels a warpgroup")
    gemm = panel.box("arithmetic", 60, 760, "wgmma: A from registers, B from shared memory")
    panel.arrow((image[0] + 30, image[3]), (image[0] + 30, a[1] + 20))
    panel.arrow((image[0] + 30, a[1] + 20), (a[0], a[1] + 20))
    panel.note(a[0] - 4, a[1] + 36, "16-byte loads")
    panel.arrow((plan[0] + 60, image[3]), (plan[0] + 60, plan[1]), "offset, mask")
    panel.arrow((plan[0] + 125, plan[3]), (plan[0] + 125, a[1]))
    panel.arrow((weight[0] + 95, weight[3]), (weight[0] + 95, ring[1]), "bulk copies, ahead of use")
    panel.arrow((ring[0] + 95, ring[3]), (ring[0] + 95, gemm[1]))
    panel.arrow((a[0] + 125, a[3]), (a[0] + 125, gemm[1]), "as they are")
    panel.arrow((sums[0] + 60, gemm[1]), (sums[0] + 60, sums[3]))
    panel.arrow(
        (output[0] + 85, sums[1]), (output[0] + 85, output[3]), "store once, with bias", False
    )
    return panel


WHOLE = 258  # width of a piece of the backward pass
PIECE = 280  # from one piece of the backward pass to the next
LEFT_HALF, RIGHT_HALF = (0, 122), (134, 124)  # x and width of boxes in a piece


def straight(panel: Panel, upper: tuple, lower: tuple, x: float, text: str = "") -> None:
    """Down from one box to another, or up if they are the other way round."""
    start, end = (upper[3], lower[1]) if upper[1] < lower[1] else (upper[1], lower[3])
    panel.arrow((x, start), (x, end), text)


def after_the_product(panel: Panel, at: int, gemm: tuple, middle: str, result: str) -> None:
    done = panel.box("registers, after", at, WHOLE, middle)
    out = panel.box("device memory, after", at, WHOLE, result)
    x = (gemm[0] + gemm[2]) / 2
    straight(panel, gemm, done, x)
    straight(panel, done, out, x)


def weights_of(panel: Panel, at: int, gemm: tuple) -> None:
    """The right operand of both products with the weight."""
    x, width = RIGHT_HALF
    weight = panel.box("device memory", at + x, width, "weight, transposed,\npacked once")
    ring = panel.box("shared memory", at + x, width, "ring of\nweight tiles")
    straight(panel, weight, ring, weight[0] + 40)
    straight(panel, ring, gemm, weight[0] + 40, "B")


def sampling_gradients(panel: Panel, at: int) -> None:
    x, width = LEFT_HALF
    grad = panel.box("device memory", at + x, width, "grad of output")
    rows = panel.box("registers", at + x, width, "rows of grad")
    gemm = panel.box("arithmetic", at, WHOLE, "wgmma: gradient of the columns")
    weights_of(panel, at, gemm)
    straight(panel, grad, rows, grad[0] + 61, "as they\nare")
    straight(panel, rows, gemm, grad[0] + 61, "A")
    middle = "meet the four corners of their samples:\ndot products"
    after_the_product(panel, at, gemm, middle, "offset grad, mask grad")


def weight_gradient(panel: Panel, at: int) -> None:
    image = panel.box("device memory", at, 122, "image,\noffset, mask")
    grad = panel.box("device memory", at + 134, 124, "grad of output")
    samples = panel.box("shared memory", at + 36, 86, "samples")
    rows = panel.box("shared memory", at + 134, 124, "rows of grad")
    mixed = panel.box("registers", at, 92, "four corners,\nmixed")
    gemm = panel.box("arithmetic", at, WHOLE, "wgmma, both from shared memory")
    straight(panel, image, mixed, image[0] + 18)
    straight(panel, mixed, samples, image[0] + 64)
    straight(panel, samples, gemm, image[0] + 108, "A")
    straight(panel, grad, rows, grad[0] + 40)
    straight(panel, rows, gemm, grad[0] + 40, "B")
    middle = "sums of a share of the pixels"
    after_the_product(panel, at, gemm, middle, "weight grad: shares added\nin a fixed order")


def input_gradient(panel: Panel, at: int) -> None:
    grad = panel.box("device memory", at, 122, "grad of output,\nlanding lists")
    lists = panel.box("shared memory", at + 36, 86, "lists of\nthe blocks")
    rows = panel.box("registers", at, 122, "samples that touch\n4 x 4 pixels,\nmixed by mma")
    gemm = panel.box("arithmetic", at, WHOLE, "wgmma, as in the forward pass")
    weights_of(panel, at, gemm)
    straight(panel, grad, rows, grad[0] + 18)
    straight(panel, grad, lists, grad[0] + 79)
    straight(panel, lists, rows, grad[0] + 79)
    straight(panel, rows, gemm, grad[0] + 61, "A")
    after_the_product(panel, at, gemm, "sums, f32", "input grad, stored once")


def backward() -> str:
    title = "fused, backward: three pieces side by side, no columns in memory and no atomics"
    panel = Panel(TOP + 24, title, STATIONS, above=38)
    for i, (name, piece) in enumerate(PIECES.items()):
        panel.heading(LEFT + i * PIECE + WHOLE / 2, TOP + 12, name)
        piece(panel, i * PIECE)
    return drawing([panel], TOP + 24 + 470)


PIECES = {
    "offset and mask gradients": sampling_gradients,
    "weight gradient": weight_gradient,
    "input gradient": input_gradient,
}


def drawing(panels: list[Panel], height: int) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="Helvetica, Arial, sans-serif">',
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto">',
            '<path d="M0 0 8 4 0 8z" fill="#1f4e9c"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            *(part for panel in panels for part in panel.parts),
            "</svg>\n",
        ]
    )


def picture() -> str:
    panels = [im2col(TOP), fused(TOP + PANEL + 30)]
    return drawing(panels, TOP + 2 * PANEL + 14)


# By file name.
PICTURES = {"how_it_works.svg": picture, "backward.svg": backward}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        Path(__file__).with_name(name).write_text(draw())
