"""How records are written: one renderer for each format of ``--log-format``, chosen once at the start."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import orjson

from mprelay.records import ecs, gcp, ocsf, text
from mprelay.records.about import About
from mprelay.records.fitting import Shape, line

Renderer: TypeAlias = Callable[[Mapping[str, Any]], bytes]
"""Returns a record as one whole line."""

RENDERERS: Final[Mapping[Literal["json", "text", "text alone"], Renderer]] = {
    "json": partial(orjson.dumps, option=orjson.OPT_APPEND_NEWLINE),
    "text": text.line,
    "text alone": partial(text.line, alone=True),
}


def renderer(
    log_format: str, about: About, *, terminal: bool, coloured: bool = False, log_detail: str = "full"
) -> Renderer:
    """Choose the renderer for ``--log-format``; ``auto`` depends on `terminal`: whether stdout is one.

    If little is recorded of a session, a line of text also says what the lines left out would have said. It is
    `coloured` if the terminal shows colours, and nobody has asked it not to.
    """
    if log_format == "text" or (log_format == "auto" and terminal):
        alone = log_detail == "session"
        if terminal and coloured:
            return partial(text.line, alone=alone, coloured=True)
        return RENDERERS["text alone" if alone else "text"]
    shapes: dict[str, Shape] = {
        "ecs": partial(ecs.shape, about=about),
        "ocsf": partial(ocsf.shape, about=about),
        "gcp": gcp.shape,
    }
    if log_format in shapes:
        return partial(line, shapes[log_format])
    return RENDERERS["json"]
