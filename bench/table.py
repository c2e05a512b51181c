"""Prints the rows that bench/compare.py wrote as Markdown: geometric means, then layer by layer.

python bench/table.py bench/results/h200.json
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path


def geomean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def offsets_of(row: dict) -> str:
    """Of the samples, in a word."""
    if row.get("offsets", "normal") == "normal":
        return f"{row.get('sigma', 1.0):g} px"
    return row["offsets"]


def summary(rows: list[dict]) -> list[str]:
    """A line a dtype, pass and layout; and for each kind of offsets, where there are several."""
    cells = defaultdict(list)
    for row in rows:
        cells[row["dtype"], row["pass"], row["layout"], offsets_of(row)].append(row)
    several = len({offsets for *_, offsets in cells}) > 1
    lines = [
        "| dtype | pass | layout | time / convolution | worst layer | torchvision / time | worst |",
        "|---|---|---|---|---|---|---|",
    ]
    for (dtype, pass_, layout, offsets), cell in cells.items():
        ratios = [row["dcn_ms"] / row["conv_ms"] for row in cell]
        gains = [row["torchvision_ms"] / row["dcn_ms"] for row in cell if row["torchvision_ms"]]
        gain = f"{geomean(gains):.2f} | {min(gains):.2f}" if gains else "not measured | "
        name = f"{dtype}, offsets {offsets}" if several else dtype
        lines.append(
            f"| {name} | {pass_} | {layout} | {geomean(ratios):.2f} | {max(ratios):.2f} | {gain} |"
        )
    return lines


def by_offsets(rows: list[dict], layout: str) -> list[str]:
    """Time / convolution: a line a layer, dtype and pass, a column a kind of offsets."""
    rows = [row for row in rows if row["layout"] == layout]
    kinds = list(dict.fromkeys(map(offsets_of, rows)))
    lines = [
        "| layer | dtype | pass | " + " | ".join(kinds) + " |",
        "|---" * (3 + len(kinds)) + "|",
    ]
    found = defaultdict(dict)
    for row in rows:
        ratio = row["dcn_ms"] / row["conv_ms"]
        found[row["layer"], row["dtype"], row["pass"]][offsets_of(row)] = f"{ratio:.2f}"
    for names, ratios in found.items():
        lines.append(f"| {' | '.join([*names, *(ratios.get(kind, '-') for kind in kinds)])} |")
    return lines


def layers(rows: list[dict], layout: str) -> list[str]:
    """A line a layer, dtype and pass, in one layout."""
    rows = [row for row in rows if row["layout"] == layout]
    ort = any(row.get("ort_ms") for row in rows)
    head = "| layer | dtype | pass | dcn ms | convolution ms | torchvision ms |"
    lines = [head + (" ONNX Runtime ms |" if ort else " workspace MiB |"), "|---" * 7 + "|"]
    for row in rows:
        figure = row.get("ort_ms") if ort else row["workspace_mib"]
        values = [row["dcn_ms"], row["conv_ms"], row["torchvision_ms"]]
        cells = [f"{value:.3f}" if value else "-" for value in values]
        cells.append("-" if figure is None else f"{figure:.2f}")
        lines.append(
            f"| {row['layer']} | {row['dtype']} | {row['pass']} | " + " | ".join(cells) + " |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--layout", default="channels_last")
    args = parser.parse_args()
    rows = json.loads(args.rows.read_text())
    stamp = rows[0]
    print(f"{stamp['device']}, torch {stamp['torch']}, commit {stamp['commit']}\n")
    print("\n".join(summary(rows)), "", f"In {args.layout}:", "", sep="\n")
    several = len(set(map(offsets_of, rows))) > 1
    print("\n".join((by_offsets if several else layers)(rows, args.layout)))


if __name__ == "__main__":
    main()
