"""The documents are correct: their tables, their links, their commands."""

import importlib.util
import re
from pathlib import Path

import pytest

from mprelay import __version__
from mprelay.config.parameters import PARAMETERS
from mprelay.core.exits import Exit
from mprelay.records.catalogue import SESSION_CLOSED

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))

OPTIONS_OF_OTHERS = {"--all", "--network", "--onedir", "--onefile", "--quick", "--seed", "--than"}
"""Options of our scripts and of PyInstaller."""


def text_of(document):
    return (ROOT / document).read_text()


def section(document, heading):
    """The part of a document below a heading, down to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", text_of(document), re.MULTILINE | re.DOTALL)
    assert found, f"{document} has no section {heading}"
    return found[1]


def anchors(document):
    """The headings of a document, converted to anchors as a forge does."""
    headings = re.findall(r"^#+ (.*)$", text_of(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def tables():
    """The script that writes the generated tables."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "scripts" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_tables_are_current(tables):
    """If this fails, run scripts/tables.py."""
    for document in tables.DOCUMENTS:
        assert tables.render(document, text_of(document)) == text_of(document), f"{document} is not current"


def test_a_table_without_a_place_is_an_error(tables):
    with pytest.raises(ValueError, match="exits"):
        tables.render("docs/contract.md", "no mark")
    with pytest.raises(ValueError, match="exits"):
        tables.render("docs/contract.md", "<!-- exits -->\nthe end is missing")


def test_a_table_is_replaced_and_nothing_else(tables):
    rendered = tables.render("docs/contract.md", "before\n<!-- exits -->\n<!-- /exits -->\nafter\n")
    assert rendered == f"before\n<!-- exits -->\n{tables.exits()}\n<!-- /exits -->\nafter\n"
    assert tables.render("docs/contract.md", rendered) == rendered


def test_the_contract_has_every_reason_with_its_number_and_level():
    """The table is written by hand, because it says when each reason is given."""
    table = section("docs/contract.md", "Reasons of session.closed")
    rows = re.findall(r"^\| `(\w+)` \| (\d*) ?\| (\w+) \|", table, re.MULTILINE)
    assert len(rows) == len(SESSION_CLOSED)
    assert {reason: (number, level) for reason, number, level in rows} == {
        reason.value: (str(message.msg_id or ""), message.level) for reason, message in SESSION_CLOSED.items()
    }


def test_the_contract_has_every_exit_code():
    told = re.findall(r"^\| (\d+) \|", section("docs/contract.md", "Exit codes"), re.MULTILINE)
    assert told == [str(code.value) for code in Exit]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    """The files exist, and so do the headings within them."""
    for target in re.findall(r"\]\(([^)]+)\)", text_of(document)):
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), f"{document} links to {target}"
        if anchor:
            assert anchor in anchors(file.resolve().relative_to(ROOT)), f"{document} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_and_files_exist(document):
    """This covers the names that the text formats as code. Names in the changelog may have changed since."""
    text = text_of(document)
    others = {"--check", "--config", "--help", "--html", "--json", "--version"}
    others |= {"--anchors", "--key", "--notes", "--out", "--output", "--relay", "--session"}  # mprelayctl's
    others |= {"--tsa-cert"}
    ours = {parameter.option for parameter in PARAMETERS} | others
    for option in re.findall(r"`(--[a-z-]+)[ `]", text):
        assert option in ours | OPTIONS_OF_OTHERS, f"{document} names {option}"
    for path in re.findall(r"(?<!/etc/)\b(?:scripts/\w+|(?:tests|docs|mprelay)/[\w/]+)(?:\.\w+)?", text):
        if "." in path or path.startswith("scripts/"):
            assert (ROOT / path).exists() or document == "CHANGELOG.md", f"{document} names {path}"


def test_the_design_names_every_module():
    """Each module is listed under its folder, and no other one is.

    Variants for several platforms count as one module.
    """
    package = ROOT / "mprelay"
    variant = re.compile(r"_(epoll|linux|none|posix|rights|select|share|windows)$")
    there = {
        variant.sub("", path.relative_to(package).with_suffix("").as_posix())
        for path in package.rglob("*.py")
        if not path.name.startswith("__")
    }
    named, folder = set(), ""
    for bold, name in re.findall(r"^\| (\*\*)?`([\w/]+)`", section("docs/design.md", "The floors"), re.MULTILINE):
        if bold and name.endswith("/"):
            folder = name
        elif bold:
            named.add(name)
        elif folder:
            named.add(folder + name)
    assert named == there


def test_the_front_page_is_short():
    """It has two screens, and names the two commands."""
    lines = text_of("README.md").splitlines()
    assert len(lines) <= 100
    assert max(map(len, lines)) <= 120
    for name in ("run", "test"):
        assert f"scripts/{name} " in text_of("README.md")


@pytest.mark.posix("permissions to execute")
def test_every_command_can_be_run():
    """All files in scripts/ are commands, but those with an ending and what the others read."""
    for path in (ROOT / "scripts").iterdir():
        if path.is_file() and not path.suffix and path.name != "environment":
            assert path.stat().st_mode & 0o111, path


def test_the_front_pages_figures_are_those_of_the_bench(tables):
    """README's three figures agree with the table of docs/performance.md."""
    cells = {}
    for row in tables.bench().splitlines():
        name, *columns = [cell.strip() for cell in row.strip("|").split("|")]
        cells[name] = columns[-2:]
    told = section("README.md", "How fast it is")
    for name in ("new connections, /s", "requests, 100 clients, /s", "bulk, 1 stream, Gbit/s"):
        figure, ratio = re.fullmatch(r"(\S+) \((\S+)\)", cells[name][0]).groups()
        assert figure in told
        assert f"{ratio} times HAProxy's" in told


def test_the_changelog_has_this_version():
    """The newest version comes first, below unreleased changes."""
    newest = re.search(r"^## (\S+)( \(unreleased\))?$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert __version__ == newest[1] + (".dev0" if newest[2] else "")
