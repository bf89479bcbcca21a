"""What comes with the wheel beside the package: manual pages, completions for shells."""

import importlib.util
from pathlib import Path

import pytest

from mprelay.config.parameters import PARAMETERS

pytestmark = pytest.mark.posix("the generators, which scripts/test-windows does not install")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def share():
    """The script that writes the files."""
    spec = importlib.util.spec_from_file_location("share", ROOT / "scripts" / "share.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_current(share):
    """If this fails, run scripts/share.py."""
    made = {path: text for program in share.PROGRAMS for path, text in share.render(program).items()}
    there = {
        path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.glob("share/**/*") if path.is_file()
    }
    assert there == made


def test_every_parameter_is_in_every_file(share):
    for path, text in share.render(share.PROGRAMS[0]).items():
        for parameter in PARAMETERS:
            if parameter.option:
                assert parameter.option in text.replace("\\-", "-"), path


def test_every_command_is_in_every_file(share):
    for path, text in share.render(share.PROGRAMS[1]).items():
        for command in (
            "status",
            "sessions",
            "kill",
            "drain",
            "pause",
            "resume",
            "reload",
            "extend",
            "watch",
            "top",
            "verify",
            "prove",
            "report",
            "anchor",
        ):
            assert command in text, path
        assert "--control" in text.replace("\\-", "-"), path


def test_words_and_files_are_offered(share):
    """What an option takes is known to the shells."""
    bash = (ROOT / share.PATHS["bash"].format("mprelay")).read_text()
    assert "log_format_choices=(auto json text ecs ocsf gcp)" in bash
    assert bash.count("_choices=(") == 3
    assert "__config_COMPGEN=_shtab_compgen_files" in bash
