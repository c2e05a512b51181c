"""The script that times data-parallel training, on two processes of the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

ROOT = Path(__file__).parents[1]
# Of 2 images the last stage would normalise 2 values a channel, and training explode within steps.
SMALL = {"device": "cpu", "processes": 2, "dtype": "f32", "batch": 4, "size": 32, "steps": 1}


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_train_a_resnet_as_one(tmp_path):
    pytest.importorskip("torchvision")
    out = tmp_path / "rows.json"
    options = [f"--{name}={value}" for name, value in (SMALL | {"out": out}).items()]
    script = ROOT / "bench" / "distributed.py"
    subprocess.run([sys.executable, str(script), *options], check=True, timeout=300)
    rows = json.loads(out.read_text())
    assert [(row["wrapping"], row["kind"]) for row in rows] == [
        (wrapping, kind) for wrapping in ("none", "DDP", "FSDP2") for kind in ("plain", "dcn")
    ]
    for row in rows:
        assert row["images_per_s"] > 0 and row["commit"] and row["torch"]
        if row["wrapping"] != "none":
            assert row["same_weights"] is True
            assert row["gradient_difference"] in (None, 0.0)
