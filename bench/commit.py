"""The commit that a row of figures belongs to."""

from __future__ import annotations

import subprocess
from pathlib import Path


def _git(folder: Path, *arguments: str) -> str:
    """What git prints, empty where it fails or is not installed."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def measured_commit(folder: Path, named: str | None = None) -> str:
    """The commit of the code in `folder`, with `-dirty` where tracked files differ from it.

    Args:
        folder: lies in the repository.
        named: what to call it where git has no answer, as in a copy without its repository.

    Raises:
        ValueError: git has an answer, and it is not `named`.
    """
    described = _git(folder, "describe", "--always", "--dirty")
    if not described:
        return named or "unknown"
    head = _git(folder, "rev-parse", "HEAD")
    if named and _git(folder, "rev-parse", "--verify", "--quiet", f"{named}^{{commit}}") != head:
        raise ValueError(f"the code here is {described}, not {named}: rows would name another one")
    return described
