"""Makes .venv with this project installed in it, unless it exists already: for run.cmd, on Windows.

The interpreter that runs this script is the one that .venv is made from. In .venv, made-by names it and the place
it was made for, and made-with has the hash of the pyproject.toml. An environment of another interpreter, or an
unfinished one, is made anew. scripts/environment does the same elsewhere.
"""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

OLDEST: Final = (3, 13)
"""The clock of older ones ticks every 16 ms on Windows, and mprelay refuses it."""

ROOT: Final = Path(__file__).absolute().parents[1]


def main() -> int:
    """Make the environment; return the exit code."""
    base = getattr(sys, "_base_executable", sys.executable)  # if this is .venv's own, the one it was made from
    if sys.version_info < OLDEST:
        _say(f"mprelay needs Python {'.'.join(map(str, OLDEST))} or later, and {base} is {sys.version}")
        return 1
    return 0 if Environment(ROOT, base).make() else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _read(file: Path) -> str | None:
    """Return what stands in a file, None if there is none."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


class Environment:
    """The environment of the project in `root`, made from the interpreter `base`."""

    def __init__(self, root: Path, base: str) -> None:
        self._root = root
        self._base = base
        self._place = root / ".venv"
        self._python = self._place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        self._made_by = self._place / "made-by"
        self._made_with = self._place / "made-with"
        self._unfinished = self._place / "unfinished"

    def make(self) -> bool:
        """Make what is missing. False if a step failed, which has said why."""
        key = f"{self._base} {sys.version} in {self._root}"
        wanted = hashlib.sha256((self._root / "pyproject.toml").read_bytes()).hexdigest()
        if not self._python.exists() or self._unfinished.exists() or _read(self._made_by) != key:
            _say("making an environment in .venv; pip loads what is needed, which takes a while")
            if not self._make_empty():
                return False
            self._made_by.write_text(key, encoding="utf-8")
        elif _read(self._made_with) == wanted:
            return True
        else:
            _say("pip loads what else is needed into .venv")
        self._unfinished.touch()  # otherwise a half-installed package would pass for a whole one
        pip = (str(self._python), "-m", "pip", "install", "-qq", "--disable-pip-version-check")
        if not self._run(*pip, "--editable", "."):
            return False
        self._made_with.write_text(wanted, encoding="utf-8")
        self._unfinished.unlink()
        return True

    def _make_empty(self) -> bool:
        """Make .venv anew, with pip in it."""
        self._made_by.unlink(missing_ok=True)  # first: what comes next may be interrupted
        if self._run(self._base, "-m", "venv", "--clear", ".venv"):
            return True
        _say(f"{self._base} can make no environment: it needs the modules venv and ensurepip, which the")
        _say("embeddable package of Python does not have; set PYTHON to another one")
        return False

    def _run(self, *command: str) -> bool:
        return subprocess.run(command, cwd=self._root, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
