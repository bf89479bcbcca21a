"""What the user gave, and where: the message about a wrong value names the place."""

from typing import Final, NamedTuple


class Source(NamedTuple):
    """Where a value came from."""

    place: str
    """As a message names it behind "in", such as "line 4 of 'mprelay.toml'"; empty where the message need not."""
    quote: int | None = None
    """Characters of a wrong value from there that its record may repeat; 0: it must not be shown; None: all."""
    directory: str | None = None
    """The directory from which a value from there names files; None: the working directory."""


ARGUMENT: Final = Source("")
"""The command line. Whoever typed a value there needs no place to find it."""


class Given(NamedTuple):
    """A value as text, unchecked, and its source."""

    text: str
    source: Source
