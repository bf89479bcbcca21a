"""What is in force, as TOML: given as the configuration file it means the same again.

Values stand there as they were typed, or by default. Only files are named by their absolute paths.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mprelay.config.host import Host
from mprelay.config.parameters import PARAMETERS, Parameter
from mprelay.config.sources import Given
from mprelay.config.validation import Problem, make_problem

_INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_DECIMAL: Final = re.compile(r"(0|[1-9][0-9]{0,9})\.([0-9]{0,2}[1-9]|0)", re.ASCII)


def render(given: Mapping[str, Sequence[Given]], values: Mapping[str, Any], host: Host) -> str | list[Problem]:
    """Write a configuration, or say what of it TOML cannot have.

    Args:
        given: What is in force (:func:`mprelay.config.layers.merge`).
        values: What :func:`mprelay.config.validation.validate` made of it without a problem.
        host: The host that it was validated on.

    """
    import tomli_w  # noqa: PLC0415 - a start does without it

    table: dict[str, object] = {}
    problems: list[Problem] = []
    for parameter in PARAMETERS:
        if parameter.repeat:
            continue
        typed = given.get(parameter.name, ())
        text = typed[-1].text if typed else parameter.typed_default(host)
        if parameter.name == "workers":  # their default follows from the sessions
            text = str(values["workers"])
        if parameter.name in {"control", "checkpoint_to"}:
            text = values[parameter.name]
        if values["seal_key"] is not None and parameter.name == "seal_key":
            text, _ = values["seal_key"]
        if parameter.name == "acl":
            table["acl"] = items = list(values["acl"][0].items)
            problems += [
                make_problem(parameter, Given(item, typed[-1].source), wrong)
                for item in items
                if (wrong := _wrong_with(item)) is not None
            ]
        elif text is not None:
            table[parameter.name] = _value(parameter, text)
    if values["labels"]:
        table["label"] = values["labels"]  # last: what follows the head of a table belongs to it
    return problems or tomli_w.dumps(table)


def _value(parameter: Parameter, text: str) -> object:
    """Return a value in the form that a person would write it in."""
    if parameter.flag:
        return text == "true"
    if parameter.form == "number" and _INTEGER.fullmatch(text):
        return int(text)
    if parameter.form == "number" and _DECIMAL.fullmatch(text):
        return float(text)
    return text


def _wrong_with(item: str) -> str | None:
    """Say why an item of the ACL cannot stand in an array; None: it can. Only a path can be such."""
    if "," in item:
        return "has a comma in its path, which no configuration file can have"
    try:
        item.encode()
    except UnicodeEncodeError:
        return "is not UTF-8, and a configuration file is"
    return None
