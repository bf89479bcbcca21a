"""What the metrics process says to the supervisor, and what may be believed of it.

    its start: {"problem": null} ─ or why it cannot serve: {"problem": "…", "error": "EADDRINUSE"}
    a question: 17 ─ or, with the sessions: 17 sessions

The process can be reached from outside. So whatever it says is short, or it is not one of ours any more.
"""

import re
from typing import Final, NamedTuple

import orjson

from mprelay.core.texts import PROBLEM_LIMIT

LINE_LIMIT: Final = 64
"""Bytes of a question, at most."""

START_LIMIT: Final = 4096
"""Bytes of the line before all questions, at most."""

_QUESTION: Final = re.compile(rb"(\d{1,18})( sessions)?")


class NotSaid(Exception):  # noqa: N818 - it says what came
    """The metrics process would not say that."""


class Start(NamedTuple):
    """Whether the metrics process serves."""

    problem: str | None  # None: it does
    error: str | None = None  # the errno's name


class Question(NamedTuple):
    """Which question is the last one, and whether the sessions were asked for in it or in one before."""

    number: int
    sessions: bool


def start_of(line: bytes) -> Start:
    """Read the first line. Raises NotSaid."""
    try:
        said = orjson.loads(line)
    except ValueError:
        said = None
    if isinstance(said, dict) and said.keys() <= {"problem", "error"}:
        problem, error = said.get("problem"), said.get("error")
        if _is_text(problem) and _is_text(error):
            return Start(problem, error)
    raise NotSaid("said no start")


def _is_text(said: object) -> bool:
    return said is None or (isinstance(said, str) and len(said) <= PROBLEM_LIMIT)


def question_of(lines: bytes) -> Question:
    """Read whole lines of questions, the newline of the last one left out. Raises NotSaid."""
    asked = _QUESTION.fullmatch(lines[lines.rfind(b"\n") + 1 :])
    if asked is None:
        raise NotSaid("asked nothing that is known")
    return Question(int(asked[1]), b" sessions" in lines)
