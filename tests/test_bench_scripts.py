"""Scripts of `bench/`, as far as they go without a GPU."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from dcn.layers import LAYERS

FOLDER = Path(__file__).parents[1] / "bench"


@pytest.fixture
def script(monkeypatch):
    """Imports a script, and gives it arguments."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str, *arguments: str):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        return importlib.import_module(name)

    return load


def test_the_whole_pack_is_timed(script, tmp_path, capsys):
    out = tmp_path / "rows.json"
    arguments = "--device=cpu --layers=seed-small --dtypes=f32 --repeats=1 --budget=1"
    script("pack", *arguments.split(), f"--out={out}").main()
    (row,) = json.loads(out.read_text())
    for kind in ("conv", "pack", "prepacked"):
        assert row[f"{kind}_ms"] > 0 and row[f"{kind}_call_us"] > 0
    assert row["commit"] and row["layer"] == "seed-small"
    assert "| seed-small | f32 |" in capsys.readouterr().out


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_tiles_are_named_by_the_plan(script, layer):
    tiles = script("tiles")
    found = tiles.plans(layer, "bf16", [0])
    alone = tiles.plans(layer, "bf16", [1])
    chosen = tiles.plan_of(layer, "bf16")
    assert f"tile {chosen.tile}, split {chosen.split_k}" in found
    assert all(each["plan"].startswith("fused: bf16") for each in found.values())
    for sm80 in (False, True):
        assert any(each["sm80"] == sm80 for each in found.values())
    assert all(name.endswith("split 1") for name in alone)


def test_the_best_tile_is_compared_with_the_plan_s(script):
    tiles = script("tiles")
    named = [("tile 0, split 1", 1.0, False), ("tile 1, split 2", 1.1, False),
             ("tile 9, split 1", 0.5, True)]  # fmt: skip
    row = {
        "layer": "layer", "dtype": "bf16", "sigma": 4.0, "plan_ms": 1.12, "im2col_gemm_ms": 3.0,
        "plan_tile": "tile 1, split 2",
        "tiles": [{"name": name, "ms": ms, "sm80": sm80} for name, ms, sm80 in named],
    }  # fmt: skip
    assert tiles.line(row) == (
        "| layer | bf16 | 4 px | 1.1200 | tile 1, split 2 | tile 0, split 1 | 1.0000 | 10.0 % "
        "| 3.0000 | 0.5000 | tile 9, split 1 |"
    )
