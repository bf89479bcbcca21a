"""Every line below the limit: what a format adds to a record may make it too long, and then it is shortened.

Rules:

1. A record that fits is written as it is. One that does not is shortened and carries `truncated` true.
2. The longest list, object or text is halved, again and again, until the line fits. Lists and objects come first,
   texts only if these do not suffice. What every record carries is never touched.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import orjson

LIMIT: Final = 4096
"""Every line, with its newline, is shorter: so much is one atomic write to a pipe (PIPE_BUF, pipe(7))."""

Shape: TypeAlias = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Returns a record in the shape of a format, each field that has no place there in an object of ours."""

_UNTOUCHED: Final = {"timestamp", "level", "event", "relay_id", "labels"}
_SHORT: Final = 64  # characters of a text that is left alone


def line(shape: Shape, record: Mapping[str, Any]) -> bytes:
    """Return a record as one whole line of JSON, shortened if it has to be."""
    made = _dumped(shape(record))
    if len(made) < LIMIT:
        return made
    shorter = {**record, "truncated": True}
    while len(made := _dumped(shape(shorter))) >= LIMIT and (name := _longest(shorter)):
        shorter[name] = _halved(shorter[name])
    return made


def _dumped(shaped: dict[str, Any]) -> bytes:
    return orjson.dumps(shaped, option=orjson.OPT_APPEND_NEWLINE)


def _longest(record: Mapping[str, Any]) -> str | None:
    """Name what is shortened next; None: nothing is left."""
    values = {name: value for name, value in record.items() if name not in _UNTOUCHED}
    many = [name for name, value in values.items() if isinstance(value, list | dict) and value]
    long = [name for name, value in values.items() if isinstance(value, str) and len(value) > _SHORT]
    return max(many or long, key=lambda name: len(orjson.dumps(values[name])), default=None)


def _halved(value: Any) -> Any:  # noqa: ANN401 - any list, object or text
    half = len(value) // 2
    if isinstance(value, dict):
        return dict(list(value.items())[:half])
    return value[:half] if isinstance(value, list) else value[:half] + "…"
