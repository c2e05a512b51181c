"""A LibTorch program finds the installed libdcn with CMake, links it, and differentiates."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import dcn

SOURCE = Path(__file__).parent / "cpp" / "consumer"


def run(*command: str | int | Path) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def build(source: Path, folder: Path, *options: str) -> Path:
    """Configures and builds a CMake project against the installed dcn; the build folder."""
    torch_dir = Path(torch.__file__).parent
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run(
        "cmake", "-S", source, "-B", folder, *generator,
        f"-DCMAKE_PREFIX_PATH={Path(dcn.__file__).parent}",
        f"-DDCN_TORCH_DIR={torch_dir}",
        # The build may have been made against another copy of the same torch.
        f"-DCMAKE_BUILD_RPATH={torch_dir / 'lib'}",
        "-DCMAKE_BUILD_TYPE=Debug",
        *options,
    )  # fmt: skip
    run("cmake", "--build", folder)
    return folder


@pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake on this machine")
def test_a_libtorch_program_with_gradients(tmp_path):
    output = run(build(SOURCE, tmp_path) / "consumer")
    assert output.count("ok  ") == 14 and "FAILED" not in output, output
