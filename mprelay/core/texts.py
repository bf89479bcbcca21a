"""Texts that come from outside, made fit for a record: valid Unicode, cut, and without control characters."""

from typing import Final

import orjson

CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
"""What would break a line of text, or a terminal, and how it is shown instead."""

VALUE_LIMIT: Final = 200
"""Characters of what a user typed that a record repeats."""

PROBLEM_LIMIT: Final = 600
"""Bytes of what is said of it. A record may have it twice."""

UNEXPECTED_LIMIT: Final = 150
"""Characters of what is said of an exception."""

PLACE_LIMIT: Final = 60

ACL_LIMIT: Final = 1024
"""Bytes of the ACL, as typed, that a record repeats."""

NAME_LIMIT: Final = 64
"""Characters of the name of a machine, or of a person."""


def shown(value: str, most: int = VALUE_LIMIT) -> str:
    """Make any argument fit for a record: valid Unicode, and at most `most` characters."""
    text = valid(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def cut(value: str, most: int) -> str:
    """Make any argument fit for a record: valid Unicode, and its beginning if it is longer than `most` bytes.

    Bytes as they stand in the record, an escaped character as what it takes there.
    """
    text = valid(value)
    size = 0
    for place, character in enumerate(text):
        size += len(orjson.dumps(character)) - len('""')
        if size > most:
            return text[:place]
    return text


def valid(value: str) -> str:
    """Make a text that can be encoded: arguments and file names may hold half characters (os.fsdecode)."""
    return value.encode("utf-8", "backslashreplace").decode()
