"""README says what is."""

import importlib.util
import re
from pathlib import Path

import pytest

from mprelay import __version__
from mprelay.core.exits import Exit

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def tables():
    """The script that writes the tables."""
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "scripts" / "readme_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_current(tables):
    """Else run scripts/readme_tables.py."""
    assert tables.render(README) == README


def test_every_exit_code_is_told():
    """As the table has them."""
    told = set(
        re.findall(r"^\| (\d+) \|", README.partition("## Exit codes")[2].partition("\n## ")[0], re.MULTILINE)
    )
    assert {str(code.value) for code in Exit} == told


def test_the_commands_exist():
    """The two commands of README are files that can be run."""
    for name in ("run", "test"):
        script = ROOT / "scripts" / name
        assert f"scripts/{name}" in README
        assert script.stat().st_mode & 0o111


def test_the_changelog_knows_this_version():
    """Written for users, newest first; what is not released yet stands above."""
    newest = re.search(r"^## (\S+)( \(unreleased\))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert __version__ == newest[1] + (".dev0" if newest[2] else "")
