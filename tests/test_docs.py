"""Every ```python block of the README and of docs/ runs, top to bottom, one namespace a page.

A block whose first line is `# needs a GPU` is skipped where there is none, and one that begins
`# needs NAME` where that module is not installed. Commands are accepted by their parsers, C++ and
CMake are lines of a tested program, and imports that a table or a diff tells to write are there.
Links to files of the repository lead somewhere.
"""

import argparse
import re
import runpy
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


class Page:
    """The blocks of a page, and the namespace of those that ran."""

    def __init__(self, path: Path) -> None:
        self.path, self.text = path, path.read_text()
        self.blocks = [
            # Empty lines before a block give a traceback the numbers of the page's lines.
            (code, compile("\n" * self.text[: match.start(2)].count("\n") + code, path, "exec"))
            for match in FENCE.finditer(self.text)
            for language, code in [match.groups()]
            if language == "python"
        ]
        self.namespace = {"__name__": "__main__"}
        self.done = 0

    def run(self, index: int) -> None:
        """Runs a block, and first those before it that have not run."""
        while self.done <= index:
            code, compiled = self.blocks[self.done]
            self.done += 1
            if not missing(code):
                exec(compiled, self.namespace)


def missing(code: str) -> str:
    """What a block needs and this machine lacks; empty if nothing."""
    needs = re.match(r"# needs (a GPU|\w+)", code)
    if needs is None:
        return ""
    name = needs.group(1)
    there = torch.cuda.is_available() if name == "a GPU" else find_spec(name) is not None
    return "" if there else name


LOADED = [Page(path) for path in PAGES]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "page, index",
    [
        pytest.param(page, index, id=f"{page.path.name}-{index}")
        for page in LOADED
        for index in range(len(page.blocks))
    ],
)
def test_a_block_runs(page, index, tmp_path_factory, monkeypatch):
    lack = missing(page.blocks[index][0])
    if lack:
        pytest.skip(f"needs {lack}")
    folder = tmp_path_factory.getbasetemp() / page.path.stem  # a page's blocks share their files
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    page.run(index)


def blocks(path: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(path.read_text()) if language in languages]


COMMANDS = [
    words
    for path in (*PAGES, ROOT / "bench" / "README.md")
    for block in blocks(path, "bash")
    for line in block.splitlines()
    for command in line.split("&&")
    if (words := shlex.split(command, comments=True)) and words[0] in ("dcn", "python")
]


class Accepted(Exception):
    """The parser took the arguments; nothing is to run."""


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_accepted(words, monkeypatch):
    def parse_args(parser, arguments=None, namespace=None):
        parse_known_args(parser, arguments, namespace)
        raise Accepted

    def parse_known_args(parser, arguments, namespace):
        _, rest = parser.parse_known_args(arguments, namespace)
        assert not rest, rest

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    program, *arguments = words if words[0] == "dcn" else words[1:]
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(Accepted):
        if program == "dcn":
            runpy.run_module("dcn.cli", run_name="__main__")
        else:
            monkeypatch.syspath_prepend(str((ROOT / program).parent))
            runpy.run_path(str(ROOT / program), run_name="__main__")


def test_the_line_that_runs_the_tests_is_the_one_of_ci():
    (line,) = (block for block in blocks(ROOT / "README.md", "bash") if "pytest" in block)
    assert line.strip() in (ROOT / ".ci" / "run").read_text()


def test_cpp_and_cmake_are_lines_of_the_tested_program():
    folder = ROOT / "tests" / "cpp" / "package"
    program = "".join((folder / name).read_text() for name in ("main.cpp", "CMakeLists.txt"))
    lines = {line.strip() for line in program.splitlines()}
    shown = [line for page in PAGES for block in blocks(page, "cpp", "cmake")
             for line in block.splitlines() if line]  # fmt: skip
    assert shown and set(shown) <= lines


def imports_to_write(page: Path) -> list[str]:
    added = [line for block in blocks(page, "diff") for line in block.splitlines()]
    in_text = re.findall(r"`((?:from|import) dcn\b[^`]*)`", page.read_text())
    return [line[1:] for line in added if line[0] == "+"] + [
        statement for statement in in_text if "..." not in statement
    ]


WRITE = [(page.name, statement) for page in PAGES for statement in imports_to_write(page)]


@pytest.mark.parametrize("page, statement", WRITE)
def test_an_import_that_a_page_tells_to_write(page, statement):
    exec(statement, {})


@pytest.mark.parametrize("page", LOADED, ids=lambda page: page.path.name)
def test_every_block_says_its_language(page):
    languages = {match.group(1) for match in FENCE.finditer(page.text)}
    assert languages <= {"python", "bash", "cpp", "cmake", "diff", "text"}
    assert page.text.count("```") == 2 * len(FENCE.findall(page.text))


@pytest.mark.parametrize("page", LOADED, ids=lambda page: page.path.name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.text):
        if "://" not in target:
            assert (page.path.parent / target).exists(), target


def test_the_pictures_are_what_their_script_draws():
    folder = ROOT / "docs" / "pictures"
    pictures = runpy.run_path(str(folder / "draw.py"))["PICTURES"]
    assert {path.name for path in folder.glob("*.svg")} == set(pictures)
    for name, draw in pictures.items():
        assert (folder / name).read_text() == draw()
