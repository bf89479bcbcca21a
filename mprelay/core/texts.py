"""Texts from outside, made fit for a record: valid Unicode, and shortened.

JSON escapes control characters. For a line of text, and for stderr, :data:`CONTROL` tells how they are shown.
"""

from typing import Final

import orjson

CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    code: f"\\u{code:04x}"
    for code in (0x61C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""Characters that would break or turn round a line of text, or a terminal, and how each is shown instead.

They are Unicode's control characters, its two ends of a line, and those with the property Bidi_Control.
"""

VALUE_LIMIT: Final = 200
"""Characters of a value, as the user typed it, that a record repeats."""

QUOTE_LIMIT: Final = 60
"""Characters of such a value that a sentence quotes."""

PROBLEM_LIMIT: Final = 600
"""Bytes of the sentence about a wrong value, as they stand in its record. The record may hold it twice."""

REMARK_LIMIT: Final = 250
"""Characters of that sentence that stderr shows."""

UNEXPECTED_LIMIT: Final = 150
"""Characters of an unexpected exception, with its type, in a record."""

PLACE_LIMIT: Final = 60
"""Characters of the place where the exception was raised."""

ACL_LIMIT: Final = 1024
"""Bytes of the ACL, as typed, that a record repeats."""

NAME_LIMIT: Final = 64
"""Bytes of the name of a machine, or of a person, as they stand in a record."""


def missing(extra: str, failure: ImportError | None = None) -> str:
    """Say what to install for an option or a command; its name goes before: "--metrics 9100" or "top".

    `failure` is how its library was found missing. One that is there, and cannot be loaded, says itself why.
    """
    if failure is not None and not isinstance(failure, ModuleNotFoundError):
        return f"needs a library that cannot be loaded: {shown(str(failure))}"
    return f"needs a library that is missing: pip install 'mprelay[{extra}]'"


def shown(value: str, limit: int = VALUE_LIMIT) -> str:
    """Make any argument fit for a record: valid Unicode, and at most `limit` characters."""
    text = valid(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def quoted(value: str, mark: str = "…") -> str:
    """Quote any argument in a sentence: at most its first :data:`QUOTE_LIMIT` characters, then `mark`."""
    return repr(value if len(value) <= QUOTE_LIMIT else value[:QUOTE_LIMIT] + mark)


def cut(value: str, limit: int, mark: str = "") -> str:
    """Make any argument fit for a record: valid Unicode, and its beginning if it is longer than `limit` bytes.

    Bytes are counted as they stand in the record, where an escaped character takes several. `mark` ends a
    beginning, and counts.
    """
    text = valid(value)
    size = 0
    for place, character in enumerate(text):
        size += len(orjson.dumps(character)) - len('""')
        if size > limit:
            return cut(text[:place], limit - len(mark.encode())) + mark if mark else text[:place]
    return text


def valid(value: str) -> str:
    """Make a text that can be encoded: arguments and file names may hold lone surrogates (os.fsdecode)."""
    return value.encode("utf-8", "backslashreplace").decode()
