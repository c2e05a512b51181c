"""Builds libdcn and _C with CMake, against the torch of the building environment."""

import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
VERSION = (ROOT / "dcn" / "version.txt").read_text().strip()
# Found, not imported: that takes seconds, three times a build, and warns where there is no NumPy.
TORCH_DIR = Path(find_spec("torch").origin).parent
TORCH_VERSION = version("torch").split("+")[0]
TORCH_SERIES = ".".join(TORCH_VERSION.split(".")[:2])


class CMakeBuild(build_ext):
    """Runs CMake and installs its two libraries beside the Python files."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        # An editable install is built in place: setuptools would build aside and copy back the
        # extension module alone.
        in_place = self.inplace or getattr(self, "editable_mode", False)
        wheel = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        package = ROOT / "dcn" if in_place else wheel
        build = ROOT / "build"
        options = {
            "CMAKE_INSTALL_PREFIX": package,
            "CMAKE_BUILD_TYPE": "Release",
            "DCN_PYTHON": "ON",
            "DCN_TORCH_DIR": TORCH_DIR,
            "DCN_TORCH_VERSION": TORCH_VERSION,
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
        }
        for name in ("DCN_CUDA", "DCN_CUDA_ARCHS", "DCN_TESTS"):
            if name in os.environ:
                options[name] = os.environ[name]
        # --fresh: each isolated build runs in a new temporary environment, so cached paths to the
        # last one are stale.
        configure = ["cmake", "--fresh", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"]
        subprocess.check_call(configure + [f"-D{key}={value}" for key, value in options.items()])
        subprocess.check_call(["cmake", "--build", str(build)])
        subprocess.check_call(["cmake", "--install", str(build)])

    def copy_extensions_to_source(self) -> None:
        """Nothing to copy: CMake has installed everything in place."""


setup(
    version=VERSION,
    ext_modules=[Extension("dcn._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    # A compiled extension serves the torch series it was built against, and no other.
    install_requires=[f"torch=={TORCH_SERIES}.*"],
)
