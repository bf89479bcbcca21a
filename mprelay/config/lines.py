"""Where the keys of a TOML document stand. tomllib tells the place of an error, but of no value.

A document is a sequence of statements, each of which is a document too: a key with its value, or the head of a
table. So the parser itself finds their ends: it is given one line, and more of them until it can read them. Only
an array, a table or a string goes on behind the end of a line, and only a line with its end can complete it. No
other line is tried.
"""

import tomllib
from collections.abc import Mapping
from typing import Final, TypeAlias

Key: TypeAlias = tuple[str, ...]
"""A key of the document, or a table's name and one of its keys."""

_DEPTH: Final = 2
_ENDS: Final = ("]", "}", '"""', "'''")
_TRIES: Final = 1000
_LINES: Final = 20_000


def find(text: str) -> dict[Key, range]:
    """Return the lines of each key, counted from 1, as far as they can be told.

    Args:
        text: A document that tomllib can read.

    """
    found: dict[Key, range] = {}
    table: Key = ()
    started: list[str] = []  # lines of a statement whose end is not reached
    tries = 0
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n")[:_LINES], 1):
        started.append(line)
        if len(started) > 1 and not any(end in line for end in _ENDS):
            continue
        try:
            statement = tomllib.loads("\n".join(started))
        except (ValueError, RecursionError):
            tries += 1
            if tries > _TRIES:
                break
            continue
        lines = range(number - len(started) + 1, number + 1)
        if started[0].lstrip().startswith("["):
            table = _head(statement)
            found.setdefault(table[:_DEPTH], lines)
            found.setdefault(table[:1], lines)
        else:
            for key in _keys(statement):
                found.setdefault((*table, *key)[:_DEPTH], lines)
        started = []
    return found


def _head(statement: Mapping[str, object]) -> Key:
    """Return the name of the table that a head begins."""
    name: list[str] = []
    inner: object = statement
    while isinstance(inner, dict) and inner:
        ((key, inner),) = inner.items()
        name.append(key)
    return tuple(name)


def _keys(statement: Mapping[str, object]) -> list[Key]:
    """Return the key of a statement, and those of its table; none of a line without a statement."""
    keys: list[Key] = []
    for key, value in statement.items():
        keys.append((key,))
        if isinstance(value, dict):
            keys += [(key, inner) for inner in value]
    return keys
