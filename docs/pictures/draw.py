"""Draws the picture of docs/how_it_works.md: python docs/pictures/draw.py"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, PANEL, TOP = 960, 330, 44
# The levels of memory, from far to near: name, y and height within a panel, color.
LEVELS = {
    "device memory": (0, 92, "#e8eef7"),
    "shared memory": (100, 66, "#eaf5e6"),
    "registers": (174, 66, "#fdf1dc"),
    "arithmetic": (248, 58, "#f9e4e4"),
}
LEFT = 124  # of the levels' content


class Panel:
    """One algorithm: boxes at the level of memory where the data lie, arrows where they go."""

    def __init__(self, y: int, title: str, levels: list[str]) -> None:
        self._y, self.parts = y, []
        self._text(12, y - 14, title, size=15, bold=True, anchor="start")
        for name in levels:
            top, height, color = LEVELS[name]
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
        top, height, _ = LEVELS[level]
        x, y, height = LEFT + x, self._y + top + 9, height - 18
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="white" '
            f'stroke="#444"/>'
        )
        self._text(x + width / 2, y + height / 2, text)
        return x, y, x + width, y + height

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
    levels = ["device memory", "registers", "arithmetic"]
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
    panel = Panel(y, "fused, forward: one kernel, no columns in memory", list(LEVELS))
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


def picture() -> str:
    panels = [im2col(TOP), fused(TOP + PANEL + 30)]
    height = TOP + 2 * PANEL + 14
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


if __name__ == "__main__":
    Path(__file__).with_name("how_it_works.svg").write_text(picture())
