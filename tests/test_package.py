"""A model compiled ahead of time runs in Python, and in a C++ program that links libdcn."""

import shutil
import subprocess
import sys
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


LOADS_A_CONVOLUTION = """
import sys
import torch
module = torch.nn.Conv2d(3, 4, 3).to("cuda").eval()
with torch.no_grad():
    program = torch.export.export(module, (torch.rand(1, 3, 8, 8, device="cuda"),))
    path = torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[1])
torch._inductor.aoti_load_package(str(path))
"""


def skip_where_torch_crashes(folder: Path) -> None:
    """torch 2.11's own loader ends with a segmentation fault on some machines with CUDA: for
    packages of a plain convolution, in a process that knows nothing of dcn."""
    command = [sys.executable, "-c", LOADS_A_CONVOLUTION, str(folder / "convolution.pt2")]
    if subprocess.run(command, capture_output=True).returncode < 0:
        pytest.skip("torch crashes on this machine when it loads a package of nn.Conv2d")


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake on this machine")
def test_a_package_in_python_and_in_a_program(tmp_path, device):
    if device == "cuda":
        skip_where_torch_crashes(tmp_path)
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
