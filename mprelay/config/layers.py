"""Sources on top of each other: the command line, the variables, the file. Below them are the defaults.

Rules:

1. The highest source that gives a parameter gives it alone. What lower ones have for it is not even judged.
2. Each label is a parameter of its own in this: the labels of all sources are put together, and of those with the
   same key the highest wins.
3. An absolute timeout and a moment of expiry say the same in two ways, so the higher source wins. A timeout of 0
   takes the place of no moment: it may have been given only because BUF stands behind it.
4. An empty variable is not given, and an unknown one is somebody else's. So a variable lets nobody in without a
   list of its own.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from mprelay.config.host import UNKNOWN_HOST
from mprelay.config.parameters import ALTERNATIVES, PARAMETERS, Parameter, variable_of
from mprelay.config.sources import Given, Source
from mprelay.config.validation import Problem


class Layer(NamedTuple):
    """What one source gives, by the parameters' names."""

    given: dict[str, list[Given]]
    wrong: dict[str, list[Problem]]
    """What is wrong beside the values, such as an option without one."""


def from_variables(environment: Mapping[str, str]) -> Layer:
    """Take what the variables of a process give. Of labels there may be several, one a line."""
    given: dict[str, list[Given]] = {}
    for parameter in PARAMETERS:
        if text := environment.get(variable_of(parameter)):
            source = Source(variable_of(parameter))
            texts = filter(None, text.split("\n")) if parameter.repeat else [text]
            given[parameter.name] = [Given(one, source) for one in texts]
    return Layer(given, {})


def merge(layers: Sequence[Layer]) -> tuple[dict[str, list[Given]], list[Problem]]:
    """Put layers together, the highest first.

    Returns what is in force, as :func:`mprelay.config.validation.validate` takes it, and what is wrong with that
    beside the values.
    """
    given: dict[str, list[Given]] = {}
    problems: list[Problem] = []
    places: dict[str, int] = {}
    for parameter in PARAMETERS:
        name = parameter.name
        having = [place for place, layer in enumerate(layers) if name in layer.given or name in layer.wrong]
        if not having:
            continue
        places[name] = having[0]
        heard = having if parameter.repeat else having[:1]
        given[name] = _labels(parameter, layers) if parameter.repeat else layers[having[0]].given.get(name, [])
        problems += [wrong for place in heard for wrong in layers[place].wrong.get(name, ())]
    hidden = _hidden(given, places)
    given.pop(hidden, None)
    return given, [wrong for wrong in problems if wrong.parameter != hidden]


def _labels(parameter: Parameter, layers: Sequence[Layer]) -> list[Given]:
    """Put the labels together. A key given twice in the same source stays: that is an error."""
    labels: list[Given] = []
    known: set[str] = set()
    for layer in layers:
        new = [(one.text.partition("=")[0], one) for one in layer.given.get(parameter.name, ())]
        labels += [one for key, one in new if key not in known]
        known.update(key for key, _ in new)
    return labels


def _hidden(given: Mapping[str, Sequence[Given]], places: Mapping[str, int]) -> str:
    """Name the one of two alternatives that a higher source takes the place of; empty: neither."""
    timeout, moment = ALTERNATIVES
    if timeout not in places or moment not in places or places[timeout] == places[moment]:
        return ""
    if places[moment] < places[timeout]:
        return timeout
    (parse,) = (parameter.value for parameter in PARAMETERS if parameter.name == timeout)
    with suppress(ValueError):
        if all(parse(one.text, UNKNOWN_HOST) == 0 for one in given[timeout][-1:]):
            return ""
    return moment
