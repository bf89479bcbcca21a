"""HTML that nothing from outside can turn into other HTML: a text is escaped unless it was made here. Pure."""

from html import escape
from typing import Final

from mprelay.ctl.figures import escaped

_NAMES: Final = {"class_": "class", "for_": "for"}  # Python's own words


class Html(str):
    """A text that is markup."""

    __slots__ = ()


def shown(value: object) -> Html:
    """Return a value as markup: as it is if it is that, or else as a text that a browser shows."""
    return value if isinstance(value, Html) else Html(escape(escaped(str(value))))


def together(*children: object) -> Html:
    """Return values behind each other; what is None is left out."""
    return Html("".join(shown(child) for child in children if child is not None))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """Return an element. An attribute that is None is left out."""
    given = "".join(
        f' {_NAMES.get(key, key).replace("_", "-")}="{escape(escaped(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>{together(*children)}</{name}>")
