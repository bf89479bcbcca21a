"""The rules of the ACL as people write them: a list with commas, and files with one entry a line.

    ACL ::= item ("," item)*      item ::= entry | "@" path

Rules:

1. A file is UTF-8, with or without a byte order mark. ``#`` begins a comment. Blanks around an entry, and lines
   without an entry, do not count. A file names no other file.
2. A file without an entry is right, and lets nobody in.
3. Every wrong entry is told, with the place where it stands, up to :data:`WRONG_LIMIT`. A list with a wrong entry
   is no list.
4. Paths become absolute at once, because the relay leaves its working directory. The file is looked up anew each
   time it is read.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import PurePath
from typing import Final, NamedTuple

from mprelay.config.written import read_text
from mprelay.core.acl import Acl, Entry
from mprelay.core.texts import QUOTE_LIMIT, quoted, shown

WRONG_LIMIT: Final = 10
"""Wrong entries that are told."""

_FILE: Final = "@"


class Wrong(NamedTuple):
    """A wrong entry, or a file that cannot be read."""

    file: str | None
    line: int | None  # counted from 1; None: the whole file, or no file
    text: str | None  # the entry, or the item of the list; None: it is not shown
    problem: str  # what would be right ("must be …"), or what is wrong ("has …")

    @property
    def place(self) -> str:
        """Where it stands, as a message names it behind "in"; empty: in the list itself."""
        return "" if self.file is None or self.line is None else f"line {self.line} of {quoted(self.file)}"


class WrongRulesError(ValueError):
    """There is at least one wrong entry."""

    def __init__(self, wrong: Sequence[Wrong]) -> None:
        super().__init__("; ".join(one.problem for one in wrong))
        self.wrong = tuple(wrong)


@dataclass(frozen=True, slots=True)
class Rules:
    """An ACL as it was typed, with its files by absolute paths."""

    written: str
    items: tuple[str, ...]

    @classmethod
    def of(cls, text: str, directory: str) -> "Rules":
        """Take an ACL apart. Files are named from `directory`."""
        return cls(text, tuple(_absolute(item, directory) for item in text.split(",")))

    @property
    def has_files(self) -> bool:
        """Whether anything comes from a file, and may change."""
        return any(item.startswith(_FILE) for item in self.items)

    def load(self, read_file: Callable[[str], bytes], *, quotes: bool = True) -> "Loaded":
        """Read the files, and make the list. Arguments and errors are those of :meth:`entries`."""
        entries = self.entries(read_file, quotes=quotes)
        return Loaded(Acl.of(entries), _digests(entries) if self.has_files else array("Q"))

    def entries(self, read_file: Callable[[str], bytes], *, quotes: bool = True) -> list[Entry]:
        """Read the entries. Raises WrongRulesError.

        Args:
            read_file: Reads a whole file. It raises OSError, or ValueError: what is wrong with the file.
            quotes: Whether a wrong line of a file is shown to whoever reads the records.

        """
        entries: list[Entry] = []
        wrong: list[Wrong] = []
        for item in self.items:
            if len(wrong) >= WRONG_LIMIT:
                break
            if item.startswith(_FILE):
                _read_file(item.removeprefix(_FILE), read_file, entries, wrong, quotes=quotes)
                continue
            _parse_item(Entry.parse, item, self.written, entries, wrong)
        if wrong:
            raise WrongRulesError(wrong[:WRONG_LIMIT])
        return entries


def read_proxies(text: str) -> Acl:
    """Read the networks of proxies, with commas between. Raises WrongRulesError."""
    entries: list[Entry] = []
    wrong: list[Wrong] = []
    for item in text.split(","):
        _parse_item(Entry.parse_network, item, text, entries, wrong)
    if wrong:
        raise WrongRulesError(wrong[:WRONG_LIMIT])
    return Acl.of(entries)


class Loaded(NamedTuple):
    """What was read."""

    acl: Acl
    digests: "array[int]"
    """A number for each entry, whatever its form and its place in the list; none if there are no files."""


def changes(before: Iterable[int], after: Iterable[int]) -> tuple[int, int]:
    """Tell from digests how many entries only the second list has, and how many only the first."""
    old, new = set(before), set(after)
    return len(new - old), len(old - new)


class Reread(NamedTuple):
    """What came of reading the rules again."""

    loaded: Loaded | None  # None: something is wrong
    added: int  # entries that only the new list has
    removed: int  # entries that only the old one had
    wrong: tuple[Wrong, ...]


def reread(rules: Rules, before: Iterable[int], read_file: Callable[[str], bytes], *, quotes: bool) -> Reread:
    """Read the rules again, with `before`, the digests of the list in force. The rest is :meth:`Rules.load`'s."""
    try:
        loaded = rules.load(read_file, quotes=quotes)
    except WrongRulesError as failure:
        return Reread(None, 0, 0, failure.wrong)
    return Reread(loaded, *changes(before, loaded.digests), ())


def _parse_item(
    parse: Callable[[str], Entry], item: str, written: str, entries: list[Entry], wrong: list[Wrong]
) -> None:
    """Parse an item of the list that was `written`, and add the entry, or what is wrong with it."""
    try:
        entries.append(parse(item))
    except ValueError as failure:
        whole = Wrong(None, None, written, "has an empty entry, before or behind a comma")
        wrong.append(Wrong(None, None, item, str(failure)) if item or not written else whole)


def _digests(entries: Iterable[Entry]) -> "array[int]":
    hashes = (blake2b(str(entry).encode(), digest_size=8).digest() for entry in entries)
    return array("Q", (int.from_bytes(one, "little") for one in hashes))


def _absolute(item: str, directory: str) -> str:
    path = item.removeprefix(_FILE)
    return f"{_FILE}{PurePath(directory, path)}" if path and path is not item else item


def _read_file(
    path: str, read_file: Callable[[str], bytes], entries: list[Entry], wrong: list[Wrong], *, quotes: bool
) -> None:
    """Add the entries of a file, and what is wrong with them."""
    problem = None if path else "must name a file behind the @"
    lines: list[str] = []
    try:
        if path:
            lines = read_text(path, read_file).split("\n")
    except ValueError as failure:
        problem = str(failure)
    if problem is not None:
        wrong.append(Wrong(path, None, _FILE + path, problem))
    for number, line in enumerate(lines, 1):
        if len(wrong) >= WRONG_LIMIT:
            return
        if text := line.partition("#")[0].strip():
            try:
                entries.append(Entry.parse(text))
            except ValueError as failure:
                problem = "must be an entry: no file names another" if text.startswith(_FILE) else str(failure)
                if quotes:
                    wrong.append(Wrong(path, number, shown(text, QUOTE_LIMIT), problem))
                else:  # even the problem may repeat what was read
                    wrong.append(Wrong(path, number, None, "must be an entry"))
