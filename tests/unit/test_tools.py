"""The versions of the tools: a commit is checked with the versions that CI uses."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pinned(text):
    """The versions that a file pins, by name."""
    return dict(re.findall(r"([a-z-]+)==([\w.]+)", text))


def test_a_commit_is_checked_with_the_versions_of_ci():
    tox = (ROOT / "tox.ini").read_text()
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert {"ruff", "mypy", "types-psutil"} == set(pinned(tox))
    of_ruff = re.findall(r"ruff-pre-commit\n +rev: v([\d.]+)", hooks)
    assert pinned(tox) == {**pinned(hooks), "ruff": of_ruff[0]}
