"""Moments of a log: whole microseconds since 1970, UTC. Pure, and without the reader's own time zone."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, TypeAlias

Moment: TypeAlias = int
"""Microseconds since 1970-01-01 00:00 UTC."""

SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_USUAL: Final = len("2026-11-26T12:00:00.000000Z")
_TO_SECONDS: Final = len("2026-11-26T12:00:00")
_EARLIEST: Final = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LATEST: Final = (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) - _EPOCH) // _MICROSECOND


def moment(text: object) -> Moment | None:
    """Read a timestamp (RFC 3339). None: it is none, or has no offset."""
    if not isinstance(text, str):
        return None
    if len(text) == _USUAL and text.endswith("Z") and text[_TO_SECONDS] == ".":
        whole, fraction = _moment(text[:_TO_SECONDS] + "Z"), text[_TO_SECONDS + 1 : -1]
        if whole is not None and fraction.isascii() and fraction.isdigit():
            return whole + int(fraction)
        return None
    return _moment(text)


@lru_cache(maxsize=64)
def _moment(text: str) -> Moment | None:
    """Read any form. Records of one second follow each other, so few have to be remembered."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if read.tzinfo is None else (read - _EPOCH) // _MICROSECOND


def bounded(when: int) -> Moment:
    """Return the nearest moment that a calendar has."""
    return min(max(when, _EARLIEST), _LATEST)


def _calendar(when: Moment) -> datetime:
    return _EPOCH + timedelta(microseconds=bounded(when))


def stamp(when: Moment | None) -> str | None:
    """Write a moment as records do: 2026-11-26T12:00:00.000123Z."""
    if when is None:
        return None
    return _calendar(when).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def shown(when: Moment | None) -> str:
    """Write a moment for a person, to the millisecond: 2026-11-26 12:00:00.123 UTC."""
    if when is None:
        return "not known"
    return _calendar(when).replace(tzinfo=None).isoformat(" ", "milliseconds") + " UTC"


def briefly(when: Moment, width: int) -> str:
    """Write the beginning of an interval that is `width` microseconds long, as exactly as it has to be."""
    text = _calendar(when).replace(tzinfo=None).isoformat(" ")
    if width % DAY == 0:
        return text[: len("2026-11-26")]
    if width % SECOND:
        return _calendar(when).replace(tzinfo=None).isoformat(" ", "milliseconds")
    return text[: len("2026-11-26 12:00:00")] if width % MINUTE else text[: len("2026-11-26 12:00")]


def width_shown(width: int) -> str:
    """Write the length of an interval: 5 s, 15 min, 6 h, 7 d."""
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if width % unit == 0:
            return f"{width // unit} {name}"
    return f"{width / SECOND:g} s"
