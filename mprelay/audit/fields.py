"""Fields of a record from outside: each as the type that it must have, or as absent. Pure."""

import math
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

Record: TypeAlias = Mapping[str, Any]

LIMIT: Final = 1024
"""Characters of a text. A relay's own are shorter; those of others must not fill the memory."""


def whole(record: Record, name: str) -> int | None:
    """Return a field that counts something. None: it is absent, or of another type."""
    value = record.get(name)
    return value if type(value) is int and value >= 0 else None


def text(record: Record, name: str) -> str | None:
    """Return a field that is a text, shortened to :data:`LIMIT`. None: it is absent, or of another type."""
    value = record.get(name)
    if type(value) is not str:
        return None
    return value if len(value) <= LIMIT else f"{value[: LIMIT - 1]}…"


def number(record: Record, name: str) -> float | None:
    """Return a field that measures something. None: it is absent, of another type, or none that can be."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if value >= 0 and math.isfinite(value) else None


def flag(record: Record, name: str) -> bool | None:
    """Return a field that is true or false. None: it is absent, or of another type."""
    value = record.get(name)
    return value if isinstance(value, bool) else None


def counts(record: Record, name: str) -> dict[str, int]:
    """Return a field that is an object of counts; what is none in it is left out."""
    value = record.get(name)
    found = value.items() if isinstance(value, Mapping) else ()
    return {str(key): count for key, count in found if isinstance(count, int) and not isinstance(count, bool)}


def texts(record: Record, name: str, most: int) -> dict[str, str]:
    """Return a field that is an object of texts: the first `most`. What is no text is left out."""
    value = record.get(name)
    found = list(value.items())[:most] if isinstance(value, Mapping) else ()
    return {str(key)[:LIMIT]: entry[:LIMIT] for key, entry in found if isinstance(entry, str)}
