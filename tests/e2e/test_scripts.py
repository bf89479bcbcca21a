"""The environment of the scripts: made once, remade when necessary, and never left half made."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.posix("scripts for bash")

SCRIPT = Path(__file__).parents[2] / "scripts" / "environment"

# Acts as an interpreter and notes its arguments. Files tell it what is missing or fails.
INTERPRETER = """#!/usr/bin/env bash
here="$(dirname "$0")"
case "$*" in
    *realpath*) echo "$0" ;;
    *sys.version_info*) ;;
    *sys.version*) cat "$here/version" ;;
    "-m pip --version") ! [ -e "$here/no pip" ] ;;
    "-m venv --clear .venv"*)
        echo "$(basename "$here") venv" >>"$LOG"
        if [ -e "$here/no ensurepip" ]; then echo "no module named ensurepip"; exit 1; fi
        rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/pip ;;
    "-m venv --clear --without-pip .venv")
        echo "$(basename "$here") venv without pip" >>"$LOG"
        rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip "*"install"*)
        echo "$(basename "$here") pip ${*: -1}" >>"$LOG"
        ! [ -e "$FAILS" ] ;;
    *) echo "unexpected: $*" >&2; exit 3 ;;
esac
"""


MAKING = "making an environment in .venv; pip loads what is needed, which takes a while\n"


class Project:
    """A project directory with the script, and interpreters `one` and `two` beside it."""

    def __init__(self, place, bash):
        self.root = place / "project"
        (self.root / "scripts").mkdir(parents=True)
        shutil.copy(SCRIPT, self.root / "scripts")
        (self.root / "pyproject.toml").write_text("[project]\n")
        self.place, self._bash = place, bash
        self.fails = place / "fails"
        for name in ("one", "two"):
            (place / name).mkdir()
            (place / name / "python").write_text(INTERPRETER)
            (place / name / "python").chmod(0o755)
            (place / name / "version").write_text("3.11\n")

    def make(self, interpreter, extras=""):
        """Make the environment. Return the steps that it took, and the output."""
        log = self.place / "log"
        log.write_text("")
        env = os.environ | {
            "PYTHON": str(self.place / interpreter / "python"),
            "LOG": str(log),
            "FAILS": str(self.fails),
        }
        done = subprocess.run(
            [
                self._bash,
                "-euo",
                "pipefail",
                "-c",
                '. scripts/environment; make_environment "$1"',
                "bash",
                extras,
            ],
            cwd=self.root,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        self.code, self.said = done.returncode, done.stderr
        return log.read_text().splitlines()


@pytest.fixture
def project(tmp_path, tool):
    """A project without an environment."""
    return Project(tmp_path, tool("bash"))


def test_the_environment_is_made_once_for_each_set_of_extras(project):
    assert project.make("one") == ["one venv", "bin pip ."]
    assert (project.code, project.said) == (0, MAKING)
    assert project.make("one") == []
    assert (project.code, project.said) == (0, "")
    assert project.make("one", "[test]") == ["bin pip .[test]"]
    for extras in ("", "[test]", ""):
        assert project.make("one", extras) == []


def test_another_interpreter_remakes_the_environment(project):
    """This holds for another path, and for another version at the same path. Nothing of the old one is left."""
    project.make("one", "[test]")
    assert project.make("two") == ["two venv", "bin pip ."]
    assert not (project.root / ".venv" / "made-with[test]").exists()
    assert project.make("one") == ["one venv", "bin pip ."]
    (project.place / "one" / "version").write_text("3.11 (with another compiler)\n")
    assert project.make("one") == ["one venv", "bin pip ."]
    assert project.make("one") == []


def test_another_place_remakes_the_environment(project):
    """The scripts in an environment contain its path."""
    project.make("one")
    project.root = project.root.rename(project.place / "moved")
    assert project.make("one") == ["one venv", "bin pip ."]


def test_a_changed_project_is_installed_again(project):
    """Its dependencies may have changed. The environment stays."""
    project.make("one")
    (project.root / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    assert project.make("one") == ["bin pip ."]
    assert project.make("one") == []


def test_an_unfinished_environment_is_remade(project):
    """This holds for any interruption, of the first making or of a later one."""
    project.fails.touch()
    assert project.make("one") == ["one venv", "bin pip ."]
    assert project.code != 0
    project.fails.unlink()
    assert project.make("one") == ["one venv", "bin pip ."]
    project.fails.touch()
    assert project.make("one", "[test]") == ["bin pip .[test]"]
    project.fails.unlink()
    assert project.make("one") == ["one venv", "bin pip ."]
    assert project.make("one", "[test]") == ["bin pip .[test]"]
    assert project.code == 0


def test_without_ensurepip_an_outside_pip_is_used(project):
    """Debian packages that module separately."""
    (project.place / "one" / "no ensurepip").touch()
    assert project.make("one") == ["one venv", "one venv without pip", "one pip ."]
    assert (project.code, project.said) == (0, MAKING)
    assert project.make("one") == []


def test_without_ensurepip_and_pip_the_script_says_what_to_install(project):
    """Nothing is left that could pass for an environment."""
    for lacks in ("no ensurepip", "no pip"):
        (project.place / "one" / lacks).touch()
    assert project.make("one") == ["one venv"]
    assert project.code == 1
    assert "no module named ensurepip" in project.said
    assert "apt-get install python3-venv, or python3-pip" in project.said
    assert not (project.root / ".venv").exists()
