"""A model compiled ahead of time runs in Python, and in a C++ program that links libdcn."""

import shutil
from pathlib import Path

import pytest
import torch
from test_consumer import build, run
from test_interop import Model, images, model

SOURCE = Path(__file__).parent / "cpp" / "package"


def package(module: Model, path: Path, device: str) -> Path:
    """The model for 1 to 64 images of any height, compiled."""
    sizes = {0: torch.export.Dim("n", max=64), 2: torch.export.Dim("h", min=4, max=512)}
    with torch.no_grad():
        program = torch.export.export(module, (images(device),), dynamic_shapes=(sizes,))
        return Path(torch._inductor.aoti_compile_and_package(program, package_path=str(path)))


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake on this machine")
def test_a_package_in_python_and_in_a_program(tmp_path, device):
    module = model(device).eval()
    path = package(module, tmp_path / "model.pt2", device)
    loaded = torch._inductor.aoti_load_package(str(path))
    # Some systems link as if this were always said: only libraries whose symbols are named.
    as_needed = "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--as-needed"
    program = build(SOURCE, tmp_path / "build", as_needed) / "run_package"
    for shape in ((2, 3, 10, 9), (5, 3, 17, 9)):
        x = torch.rand(shape)
        expected = module(x.to(device)).cpu()
        torch.testing.assert_close(loaded(x.to(device)).cpu(), expected)
        input, output = tmp_path / "input", tmp_path / "output"
        x.numpy().tofile(input)
        run(program, path, device, input, output, *shape)
        values = torch.from_file(str(output), size=expected.numel()).view_as(expected)
        torch.testing.assert_close(values, expected)
