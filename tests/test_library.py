"""The installed libraries as files: what they look for, and where."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import dcn

PACKAGE = Path(dcn.__file__).parent


@pytest.mark.skipif(not shutil.which("readelf"), reason="needs readelf")
@pytest.mark.parametrize("pattern", ["lib/libdcn.so", "_C.*.so"])
def test_libraries_are_searched_for_beside_the_package_alone(pattern):
    """A folder of the building machine may be anybody's on another, /tmp above all."""
    (library,) = PACKAGE.glob(pattern)
    command = ["readelf", "--dynamic", "--wide", str(library)]
    dynamic = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (folders,) = re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", dynamic)
    assert all(folder.startswith("$ORIGIN/") for folder in folders.split(":")), folders
