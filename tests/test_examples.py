"""The examples, run small."""

import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision")
FOLDER = Path(__file__).parent.parent / "examples"


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_train_coins(dtype, tmp_path, capsys):
    pytest.importorskip("skimage")
    from dcn import demo_model

    out = tmp_path / "coins.pt"
    arguments = ["--steps", "2", "--device", "cpu", "--dtype", dtype, "--out", str(out)]
    example("train_coins").main(arguments)
    said = capsys.readouterr().out
    assert "step    2  loss" in said and "of 12 coins found" in said
    assert "backbone.body.layer4.1.conv2" in said
    state = torch.load(out, weights_only=True)
    untrained = demo_model.build_model(0, True)
    moved = [name for name, p in untrained.named_parameters() if not torch.equal(p, state[name])]
    assert any("conv_offset" in name for name in moved)
    untrained.load_state_dict(state)


def test_compile_and_time(capsys, device):
    arguments = ["--batch", "1", "--size", "64", "--device", device, "--backend", "aot_eager"]
    example("compile_and_time").main(arguments)
    said = capsys.readouterr().out.splitlines()
    error = float(said[1].split()[5])
    assert error < 1e-5
    assert [line.split()[0] for line in said[2:]] == ["inference", "training"]


def test_export_onnx(tmp_path, capsys):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    out = tmp_path / "model.onnx"
    example("export_onnx").main(["--size", "64", "--out", str(out)])
    nodes, *runs = capsys.readouterr().out.splitlines()[-3:]
    assert nodes.startswith(f"{out}: ") and nodes.endswith(" 12 of them DeformConv")
    assert [run.split(":")[0] for run in runs] == ["1 x 64 x 64 px", "3 x 96 x 64 px"]
    assert all(float(run.split()[9]) < 1e-4 for run in runs)


def test_every_example_has_a_test():
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert names == {
        name.removeprefix("test_") for name in globals() if name.startswith("test_")
    } - {"every_example_has_a_test"}
