"""Builds a wheel for each torch named, and tries each where there is no compiler.

    python tools/wheels.py 2.11.0 2.15.0 --out dist
    python tools/wheels.py 2.11.0 --out dist --tests      # and runs the test suite on the wheel

Building needs what `pip install .` needs, and takes its variables (DCN_CUDA, DCN_CUDA_ARCHS). A
wheel serves one series of torch, which its file name does not say: so each has a folder, such as
dist/torch2.11. It is then installed into a fresh environment with that torch, and runs `dcn check`
with a PATH on which there is neither a compiler nor nvcc. Prints a table; fails if a wheel does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD_TOOLS = ("nvcc", "ptxas", "cc", "c++", "gcc", "g++", "clang", "clang++", "cmake", "ninja")
# What building leaves in the source folder.
LEFTOVERS = (
    "build",
    "dist",
    ".*",
    "__pycache__",
    "*.egg-info",
    "*.so",
    "_build.py",
    "lib",
    "include",
)

# Libraries of torch and CUDA that came from elsewhere than the environment, one a line. The
# driver's libcuda is the machine's.
FOREIGN_LIBRARIES = """
import sys
from pathlib import Path
import dcn
names = ("libdcn.", "_C.", "libtorch", "libc10", "libcudart.", "libcublas")
mapped = {Path(line.split()[-1]) for line in open("/proc/self/maps") if "/" in line}
home = Path(sys.prefix).resolve()
ours = (path for path in mapped if path.name.startswith(names))
print(*(path for path in ours if home not in path.parents), sep="\\n")
"""


@dataclass
class Environment:
    """A fresh virtual environment in which `torch` of one exact version can be installed."""

    folder: Path
    torch: str

    def __post_init__(self) -> None:
        subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
        constraints = self.folder / "constraints.txt"
        constraints.write_text(f"torch=={self.torch}\n")
        # Both: the first does not reach the isolated environment of a build.
        self.variables = os.environ | {
            "PIP_CONSTRAINT": str(constraints),
            "PIP_BUILD_CONSTRAINT": str(constraints),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        for name in ("PYTHONPATH", "LD_LIBRARY_PATH"):
            self.variables.pop(name, None)
        self.pip("install", "--upgrade", "pip")  # one that knows the second

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    def pip(self, *arguments: str | Path) -> None:
        command = [self.bin / "python", "-m", "pip", *arguments, "--quiet"]
        subprocess.run(command, check=True, env=self.variables)

    def output(self, *command: str | Path) -> str:
        """What a command prints that finds nothing but this environment on its PATH."""
        variables = self.variables | {"PATH": str(self.bin)}
        result = subprocess.run(
            command, cwd=self.folder, env=variables, stdout=subprocess.PIPE, text=True
        )
        if result.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{result.stdout}")
        return result.stdout


def build(environment: Environment, out: Path) -> Path:
    """The wheel, built by pip in isolation from a copy of the sources."""
    source = environment.folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFTOVERS))
    shutil.rmtree(out, ignore_errors=True)
    environment.pip("wheel", "--no-deps", "--wheel-dir", out, source)
    (wheel,) = out.glob("*.whl")
    return wheel


def check(environment: Environment, wheel: Path) -> list[str]:
    """Installs the wheel and returns what `dcn check` prints where nothing could be compiled."""
    environment.pip("install", wheel)
    for tool in BUILD_TOOLS:
        if found := shutil.which(tool, path=str(environment.bin)):
            raise SystemExit(f"expected no build tool in the environment, but found {found}")
    foreign = environment.output(environment.bin / "python", "-c", FOREIGN_LIBRARIES).split()
    if foreign:
        raise SystemExit(f"expected the environment's own libraries, but got {', '.join(foreign)}")
    return environment.output(environment.bin / "dcn", "check").splitlines()


def run_tests(environment: Environment, wheel: Path) -> tuple[bool, str]:
    """Whether the test suite passes on the installed wheel, and its last line."""
    environment.pip("install", f"{wheel}[test]")
    # From another folder, where the sources' dcn is not found first.
    command = [environment.bin / "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests"]
    path = f"{environment.bin}{os.pathsep}{os.environ['PATH']}"
    variables = environment.variables | {"PATH": path}
    result = subprocess.run(
        command, cwd=environment.folder, env=variables, stdout=subprocess.PIPE, text=True
    )
    if result.returncode != 0:
        print(result.stdout, flush=True)
    return result.returncode == 0, result.stdout.splitlines()[-1]


def row_for(torch: str, out: Path, tests: bool) -> tuple[bool, str]:
    """Builds and tries one wheel: whether it is good, and its row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Environment(Path(folder) / "env", torch)
        start = time.perf_counter()
        wheel = build(environment, out / f"torch{'.'.join(torch.split('.')[:2])}")
        seconds = time.perf_counter() - start
        lines = check(environment, wheel)
        print("\n".join(lines), flush=True)
        kernels = lines[0].split(": ", 1)[1]
        python = ".".join(map(str, sys.version_info[:2]))
        cells = [torch, python, kernels, f"{wheel.stat().st_size / 2**20:.1f}", f"{seconds:.0f}"]
        good, summary = run_tests(environment, wheel) if tests else (True, "-")
    return good, f"| {' | '.join([*cells, lines[-1], summary])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("versions", nargs="+", metavar="TORCH", help="exact versions: 2.11.0")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="dist when not given")
    parser.add_argument("--tests", action="store_true", help="run the test suite on each wheel too")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    results = [row_for(version, out, arguments.tests) for version in arguments.versions]
    print("| torch | Python | kernels | MiB | build, s | `dcn check` without a compiler | tests |")
    print("|---|---|---|---|---|---|---|", *(row for _, row in results), sep="\n")
    sys.exit(not all(good for good, _ in results))


if __name__ == "__main__":
    main()
