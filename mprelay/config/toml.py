"""The configuration file: TOML becomes the texts that would have been typed.

Rules:

1. The keys are the names of the parameters: ``connect_timeout = 3``. Numbers, booleans and dates become what
   would have been typed on the command line, and the same parsers judge them. A float keeps the form that it has
   in the file: ``1e3`` is as wrong as it is there.
2. A list may be an array of its entries. Labels are a table, or KEY=VALUE as a string or an array of strings.
3. A record quotes at most 60 characters of the file, and none where the person who started the relay might not be
   allowed to read it.
4. The files that it names are named from its own directory.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, Final, Self

from mprelay.config import lines
from mprelay.config.host import Host
from mprelay.config.layers import Layer
from mprelay.config.parameters import CONFIG_FILE, PARAMETERS, Parameter
from mprelay.config.sources import Given, Source
from mprelay.config.validation import Problem, make_problem
from mprelay.config.written import read_text
from mprelay.core.texts import QUOTE_LIMIT, quoted, shown
from mprelay.records import catalogue

UNKNOWN_LIMIT: Final = 10
"""Unknown keys that are told."""

_BY_NAME: Final = {parameter.name: parameter for parameter in PARAMETERS}
_ERROR: Final = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL)
_LONG: Final = 10**20  # beyond any bound, and short enough to be written with digits
_KINDS: Final = (
    (bool, "a boolean"),
    (int | float, "a number"),
    (date | time, "a date or a time"),
    (list, "an array"),
    (dict, "a table"),
)


class _Float(float):
    """A float in the form that it has in the file."""

    written: str

    def __new__(cls, written: str) -> Self:
        made = super().__new__(cls, written)
        made.written = written
        return made


def read(given: Given, host: Host) -> Layer | Problem:
    """Read the file whose name was `given`; a problem if nothing could be read from it."""
    if not given.text:
        return make_problem(CONFIG_FILE, given, "must name a file")
    path = PurePath(host.directory, given.text)
    quote = QUOTE_LIMIT if host.quotes_files else 0
    try:
        text = read_text(str(path), host.read_file) + "\n"  # else an error in the last line has no number
    except ValueError as wrong:
        return make_problem(CONFIG_FILE, given, str(wrong))
    try:
        table = tomllib.loads(text, parse_float=_Float)
    except tomllib.TOMLDecodeError as wrong:
        return _not_toml(given, text, str(wrong), quote)
    except RecursionError:
        return make_problem(CONFIG_FILE, given, "is nested too deeply")
    except ValueError:  # the interpreter's limit of digits
        return make_problem(CONFIG_FILE, given, "has a number that is too long")
    source = Source(quoted(given.text), quote, str(path.parent))
    return _File(source, lines.find(text)).layer(table)


def _not_toml(given: Given, text: str, error: str, quote: int) -> Problem:
    """Say where a file is not TOML."""
    found = _ERROR.fullmatch(error)
    what, number = (error, None) if found is None else found.groups()
    what = shown(what[:1].lower() + what[1:], QUOTE_LIMIT)  # it may have a whole key in it
    wrong = f"is not TOML: {what}" if quote else "is not TOML"
    if number is None:
        return make_problem(CONFIG_FILE, given, wrong)
    line = text.split("\n")[int(number) - 1].strip()
    return make_problem(CONFIG_FILE, Given(line, Source(f"line {number} of {quoted(given.text)}", quote)), wrong)


class _File:
    """A file that is TOML."""

    def __init__(self, source: Source, places: Mapping[lines.Key, range]) -> None:
        self._source = source
        self._places = places

    def layer(self, table: Mapping[str, object]) -> Layer:
        """Take what the file gives."""
        layer = Layer({}, {})
        unknown = [key for key in table if key not in _BY_NAME]
        if unknown:
            layer.wrong[CONFIG_FILE.name] = [*self._unknown(unknown)]
        for key, value in table.items():
            if (parameter := _BY_NAME.get(key)) is not None:
                self._take(parameter, value, layer)
        return layer

    def _take(self, parameter: Parameter, value: object, layer: Layer) -> None:
        """Add one parameter, or what is wrong with it."""
        parts = _parts(parameter, value)
        for key, part in parts:
            source = self._source_of((parameter.name, *key))
            try:
                text = _typed(parameter, key, part)
            except ValueError as wrong:
                told = Given("=".join((*key, _shown(part))), source)
                layer.wrong.setdefault(parameter.name, []).append(make_problem(parameter, told, str(wrong)))
            else:
                layer.given.setdefault(parameter.name, []).append(Given(text, source))

    def _unknown(self, keys: Sequence[str]) -> Iterator[Problem]:
        for key in keys[:UNKNOWN_LIMIT]:
            source = self._source_of((key,))
            if not source.quote:
                yield _problem(None, f"unknown key in {source.place}.", source)
                continue
            alike = get_close_matches(key[:QUOTE_LIMIT], _BY_NAME, 1)
            meant = f" (is {alike[0]} meant?)" if alike else ""
            sentence = f"unknown key{meant}: {quoted(key)} in {source.place}."
            yield _problem(shown(key, QUOTE_LIMIT), sentence, source)
        if more := len(keys[UNKNOWN_LIMIT:]):
            yield _problem(None, f"{more} more unknown keys in {self._source.place}.", self._source)

    def _source_of(self, key: lines.Key) -> Source:
        """Tell where a key stands, as far as that is known."""
        found = self._places.get(key) or self._places.get(key[:1])
        if found is None:
            return self._source
        where = f"line {found[0]}" if len(found) == 1 else f"lines {found[0]} to {found[-1]}"
        return self._source._replace(place=f"{where} of {self._source.place}")


def _problem(value: str | None, sentence: str, source: Source) -> Problem:
    return Problem(CONFIG_FILE.name, value, catalogue.CONFIG_INVALID, sentence, source)


def _parts(parameter: Parameter, value: object) -> list[tuple[lines.Key, Any]]:
    """Take the labels apart: by the keys of their table, if they are one. Others are one value."""
    if parameter.repeat and isinstance(value, dict):
        return [((key,), part) for key, part in value.items()]
    if parameter.repeat and isinstance(value, list):
        return [((), part) for part in value]
    return [((), value)]


def _typed(parameter: Parameter, key: lines.Key, value: object) -> str:
    """Return what would have been typed. Raises ValueError: what would be right."""
    if key:  # of a table of labels
        if "=" in key[0]:
            raise ValueError("must have a key without =")
        return f"{_text('string', key[0])}={_text('string', value, also_number=True)}"
    if parameter.listed and isinstance(value, list):
        return ",".join(_items(value))
    form = "boolean" if parameter.flag else parameter.form
    return _text(form, value, of_list=parameter.listed)


def _items(values: Sequence[object]) -> Iterator[str]:
    """Return the items of a list that is an array."""
    for value in values:
        item = _text("string", value)
        if "," in item:
            raise ValueError("must have a string for each entry: without a comma")
        yield item


def _text(form: str, value: object, *, also_number: bool = False, of_list: bool = False) -> str:
    """Return a single value as it would have been typed. Raises ValueError: what would be right."""
    match value:
        case str() if "\0" in value:
            raise ValueError("must not have a NUL")
        case str():
            return value
        case bool() if form == "boolean":
            return "true" if value else "false"
        case int() if not isinstance(value, bool) and (
            form == "number" or (also_number and abs(value) < _LONG)  # a label is not judged, and must be exact
        ):
            return str(value) if abs(value) < _LONG else hex(value)
        case _Float() if form == "number":
            return value.written
        case datetime() | date() | time() if form == "date":
            return value.isoformat()
    right = {
        "boolean": "true or false",
        "number": "a number or a string",
        "date": "a date and a time with an offset",
        "string": "a string or an array of strings" if of_list else "a string",
    }[form]
    raise ValueError(f"must be {right}, not {_kind(value)}")


def _kind(value: object) -> str:
    return next(name for kind, name in _KINDS if isinstance(value, kind))


def _shown(value: object) -> str:
    """Show a value of a wrong type, as far as it is short."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value) if abs(value) < _LONG else hex(value)
        case _Float():
            return value.written
        case date() | time():
            return value.isoformat()
        case str():
            return value
    return "[…]" if isinstance(value, list) else "{…}"
