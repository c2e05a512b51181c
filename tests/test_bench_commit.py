"""Rows of figures name the commit that holds the code they measured."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "bench" / "commit.py"
pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


def measured_commit(*arguments):
    spec = importlib.util.spec_from_file_location("bench_commit", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.measured_commit(*arguments)


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=n", "-c", "user.email=n@example.com")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q")
    for text in ("one", "two"):
        (tmp_path / "code.py").write_text(text)
        git(tmp_path, "add", "code.py")
        git(tmp_path, "commit", "-q", "-m", text)
    return tmp_path


def test_a_clean_tree_is_its_commit(repository):
    head = git(repository, "rev-parse", "--short", "HEAD")
    (repository / "rows.json").write_text("not of the code")
    assert measured_commit(repository) == head
    assert measured_commit(repository, head[:5]) == head


def test_a_changed_tree_is_dirty_also_when_it_is_named(repository):
    head = git(repository, "rev-parse", "--short", "HEAD")
    (repository / "code.py").write_text("three")
    assert measured_commit(repository) == f"{head}-dirty"
    assert measured_commit(repository, head) == f"{head}-dirty"


@pytest.mark.parametrize("named", ["HEAD~1", "0000000"])
def test_another_commit_is_refused(repository, named):
    with pytest.raises(ValueError, match=f"the code here is .*, not {named}: rows would name"):
        measured_commit(repository, named)


def test_a_copy_without_a_repository_goes_by_the_name_given(tmp_path):
    assert measured_commit(tmp_path, "1234567") == "1234567"
    assert measured_commit(tmp_path) == "unknown"
