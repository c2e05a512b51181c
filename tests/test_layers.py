"""The layers of the source: what may include what, one interpolation, files that can be read."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
CODE = sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh"))
PYTHON = [
    path
    for folder in ("dcn", "tests", "bench")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "_build.py"
]
FACTS = [CSRC / "shape.h", CSRC / "bilinear.h", CSRC / "fixed_point.h"]
KERNELS = [path for path in CODE if CSRC / "cuda" / "kernels" in path.parents]
PLANS = [
    path
    for path in CODE
    if path.parent == CSRC
    and (
        path.stem.endswith(("plan", "_tiles"))
        or path.name in ("column_sum.h", "fast_divide.h", "fused_layout.h")
    )
]
TORCH_HEADER = re.compile(r"^(torch|ATen|c10|caffe2)/")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def includes_of_all(path: Path, seen: set[Path] | None = None) -> set[str]:
    """Also what the project's own headers include in turn."""
    seen = set() if seen is None else seen
    found = set()
    for header in includes(path):
        found.add(header)
        candidates = [(folder / header).resolve() for folder in (path.parent, CSRC)]
        for own in candidates:
            if own.is_file() and own not in seen:
                seen.add(own)
                found |= includes_of_all(own, seen)
    return found


def without_comments(text: str) -> str:
    text = re.sub(r"//[^\n]*", "", text)
    return re.sub(r"/\*.*?\*/", lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL)


def lines_with(pattern: str, paths: list[Path]) -> list[str]:
    expression = re.compile(pattern)
    return [
        f"{name(path)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(without_comments(path.read_text()).split("\n"), 1)
        if expression.search(line)
    ]


def test_there_is_something_to_look_at():
    assert len(CODE) > 15 and len(PYTHON) > 15
    assert all(path.is_file() for path in FACTS + PLANS)
    assert any(path.suffix == ".cu" for path in KERNELS)


@pytest.mark.parametrize("path", FACTS + PLANS + KERNELS, ids=name)
def test_no_torch_header_below_the_top_layer(path):
    assert [h for h in includes_of_all(path) if TORCH_HEADER.match(h)] == []


@pytest.mark.parametrize("path", FACTS + PLANS, ids=name)
def test_facts_and_plans_are_plain_cpp(path):
    """Standard headers and each other; nothing of CUDA, nothing of the layers above."""
    allowed = {path.name for path in FACTS + PLANS if path.suffix == ".h"}
    for header in includes_of_all(path):
        assert header in allowed or re.fullmatch(r"[a-z_]+", header), header


@pytest.mark.parametrize("path", KERNELS, ids=name)
def test_kernels_know_facts_and_each_other_only(path):
    for header in includes(path):
        if header.startswith(("cuda", "cub/")) or re.fullmatch(r"[a-z_]+(\.h)?", header):
            continue
        target = next(
            (p for p in ((path.parent / header).resolve(), CSRC / header) if p.is_file()), None
        )
        assert target in KERNELS + FACTS + PLANS, header


def test_the_python_module_has_no_torch_header():
    headers = includes_of_all(CSRC / "bindings.cpp")
    assert [h for h in headers if TORCH_HEADER.match(h)] == []


def test_the_library_has_no_python():
    others = [path for path in CODE if path.name != "bindings.cpp"]
    assert (
        lines_with(r"#\s*include\s*[<\"](pybind11|Python\.h|torch/(extension|python)\.h)", others)
        == []
    )


def test_only_one_file_interpolates():
    """Nobody else turns a coordinate into a pixel. Second derivatives move samples to the edges of
    their cells, and let the operator interpolate there."""
    others = [path for path in CODE if path.name not in ("bilinear.h", "double_backward.cpp")]
    assert lines_with(r"\bfloorf?\b", others) == []
    assert lines_with(r"\bfloorf?\b", [CSRC / "bilinear.h"])


def test_only_one_file_computes_output_sizes():
    others = [path for path in CODE if path.name != "shape.h"]
    assert lines_with(r"dil\w*(\[\d\]|\(\))?\s*\*\s*\(?\w+(\[\d\]|\(\))?\s*-\s*1\)", others) == []


def test_launches_are_in_launchers():
    assert lines_with(r"<<<", [path for path in CODE if path not in KERNELS]) == []
    assert lines_with(r"<<<", KERNELS)


@pytest.mark.parametrize("path", CODE + PYTHON + sorted(ROOT.glob("tests/cpp/**/*.cpp")), ids=name)
def test_a_file_is_at_most_400_lines(path):
    assert len(path.read_text().split("\n")) <= 401


def test_nothing_prints_or_waits_to_be_done():
    assert lines_with(r"\b(f?printf|assert|cudaDeviceSynchronize)\s*\(", CODE) == []
    markers = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    product = CODE + [path for path in PYTHON if path.parent.name != "tests"]
    assert [name(path) for path in product if markers.search(path.read_text())] == []


def test_no_fast_math():
    """It would let the compiler change floor, and drop the tests for NaN."""
    build = [ROOT / "CMakeLists.txt", ROOT / "setup.py", *sorted((ROOT / "cmake").iterdir())]
    found = [name(path) for path in build if re.search(r"fast[-_]math|-Ofast", path.read_text())]
    assert found == []


def test_names_say_what_a_file_holds():
    vague = [name(p) for p in CODE + PYTHON if re.match(r"(utils?|common|helpers?|misc)\b", p.stem)]
    assert vague == []


def test_a_wheel_has_every_package():
    (listed,) = re.findall(r"^packages = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.M)
    found = [path.parent for path in (ROOT / "dcn").rglob("__init__.py")]
    names = {".".join(folder.relative_to(ROOT).parts) for folder in found}
    assert set(re.findall(r'"([\w.]+)"', listed)) == names
