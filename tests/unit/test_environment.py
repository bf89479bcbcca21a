"""The environment of scripts/run.cmd: made once, remade when necessary, and never left half made."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.posix("the interpreters are scripts for a shell")

SCRIPT = Path(__file__).parents[2] / "scripts" / "environment.py"

# Acts as an interpreter, notes what it is asked for, and fails where a file says so.
INTERPRETER = """#!/bin/sh
case "$*" in
    "-m venv --clear .venv")
        echo venv >>../log
        rm -rf .venv
        [ ! -e "../no venv" ] || exit 1
        mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip install "*" --editable .")
        echo pip >>../log
        [ ! -e "../no pip" ] ;;
    *) exit 3 ;;
esac
"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("environment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Project:
    """A project directory, and interpreters `one` and `two` beside it."""

    def __init__(self, place, script):
        self.place, self._script = place, script
        self.root = place / "project"
        self.root.mkdir()
        (self.root / "pyproject.toml").write_text("[project]\n")
        for name in ("one", "two"):
            (place / name).write_text(INTERPRETER)
            (place / name).chmod(0o755)

    def make(self, interpreter="one"):
        """Make the environment. Return the steps that it took, with False at the end if one has failed."""
        log = self.place / "log"
        log.write_text("")
        made = self._script.Environment(self.root, str(self.place / interpreter)).make()
        return [*log.read_text().split(), *([] if made else [False])]


@pytest.fixture
def project(tmp_path, script):
    """A project without an environment."""
    return Project(tmp_path, script)


def test_the_environment_is_made_once(project, capfd):
    assert project.make() == ["venv", "pip"]
    assert capfd.readouterr() == (
        "",
        "making an environment in .venv; pip loads what is needed, which takes a while\n",
    )
    assert project.make() == []
    assert capfd.readouterr() == ("", "")


def test_another_interpreter_remakes_the_environment(project, monkeypatch):
    """This holds for another path, and for another version at the same path."""
    project.make("one")
    assert project.make("two") == ["venv", "pip"]
    monkeypatch.setattr(sys, "version", "3.14")
    assert project.make("two") == ["venv", "pip"]
    assert project.make("two") == []


def test_another_place_remakes_the_environment(project):
    """The programs in an environment contain its path."""
    project.make()
    project.root = project.root.rename(project.place / "moved")
    assert project.make() == ["venv", "pip"]


def test_a_changed_project_is_installed_again(project):
    """Its dependencies may have changed. The environment stays."""
    project.make()
    (project.root / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    assert project.make() == ["pip"]
    assert project.make() == []


def test_an_environment_without_its_interpreter_is_remade(project):
    project.make()
    shutil.rmtree(project.root / ".venv" / "bin")
    assert project.make() == ["venv", "pip"]


@pytest.mark.parametrize("later", [False, True])
def test_an_unfinished_environment_is_remade(project, later):
    """This holds for any interruption, of the first making or of a later one."""
    if later:
        project.make()
        (project.root / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    (project.place / "no pip").touch()
    assert project.make() == (["pip", False] if later else ["venv", "pip", False])
    (project.place / "no pip").unlink()
    assert project.make() == ["venv", "pip"]
    assert project.make() == []


def test_an_interpreter_without_venv_is_named(project, capfd):
    (project.place / "no venv").touch()
    assert project.make() == ["venv", False]
    assert f"{project.place / 'one'} can make no environment" in capfd.readouterr().err
    (project.place / "no venv").unlink()
    assert project.make() == ["venv", "pip"]


def test_an_old_interpreter_is_refused(script, monkeypatch, capfd):
    monkeypatch.setattr(sys, "version_info", (3, 12, 9))
    assert script.main() == 1
    assert "mprelay needs Python 3.13 or later" in capfd.readouterr().err


def test_run_cmd_wants_the_same_python(script):
    """It chooses the interpreter that runs the script, by the same rule."""
    text = SCRIPT.with_name("run.cmd").read_bytes()
    assert f"sys.version_info < {script.OLDEST}".encode() in text
    assert "mprelay needs Python {}.{} or later".format(*script.OLDEST).encode() in text


def test_cmd_scripts_end_their_lines_as_cmd_exe_needs_it():
    """With line feeds alone it misses labels."""
    lines = SCRIPT.with_name("run.cmd").read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert all(line.endswith(b"\r") and line.isascii() for line in lines)
