"""Writes the generated tables of the documents, each between its two marks (``<!-- NAME -->``).

    .venv/bin/python scripts/tables.py

The tables come from the parameters, the catalogue, the exit codes and docs/bench.json. A test
(``tests/unit/test_documents.py``) fails if a document differs from what :func:`render` makes of it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mprelay.config.parameters import PARAMETERS
from mprelay.core.exits import Exit
from mprelay.records.catalogue import FIELDS, MESSAGES, SESSION_CLOSED, Field, Message

ROOT = Path(__file__).resolve().parent.parent


def parameters() -> str:
    """List the parameters, in the order of the help."""
    rows = ["| parameter | option | values | default | message | meaning |", "|---|---|---|---|---|---|"]
    for parameter in PARAMETERS:
        default = "required" if parameter.required else "" if parameter.flag else parameter.default or ""
        position = f"`{parameter.metavar}`" if parameter.position else ""
        option = (
            f"`{parameter.option}{'' if parameter.position or parameter.flag else ' ' + parameter.metavar}`"
            if parameter.option
            else ""
        )
        number = parameter.message.msg_id or ""
        rows.append(f"| {position} | {option} | {parameter.values} | {default} | {number} | {parameter.help} |")
    return "\n".join(rows)


def exits() -> str:
    """List the exit codes."""
    rows = ["| code | meaning |", "|---|---|"]
    rows.extend(f"| {code.value} | {code.meaning} |" for code in Exit)
    return "\n".join(rows)


def records() -> str:
    """List the records by the manual's number, ours last."""
    rows = ["| no. | event | level | fields besides the common ones | message |", "|---|---|---|---|---|"]
    reasons: dict[Message, list[str]] = {}
    for reason, message in SESSION_CLOSED.items():
        reasons.setdefault(message, []).append(f"`{reason.value}`")
    for message in sorted(dict.fromkeys(MESSAGES), key=lambda message: message.msg_id or 99):
        fields = " ".join(f"`{field}`" for field in message.fields)
        if message in reasons:
            fields = f"`reason` {' or '.join(reasons[message])}; see below"
        sentence = message.sentence.replace("<", "&lt;").replace("{", "*").replace("}", "*").replace("  ", " ")
        rows.append(f"| {message.msg_id or ''} | `{message.event}` | {message.level} | {fields} | {sentence} |")
    return "\n".join(rows)


def fields() -> str:
    """List the fields, those within objects included."""
    rows = ["| field | JSON type | meaning |", "|---|---|---|"]
    rows.extend(f"| `{name}` | {_json_type(field)} | {field.meaning} |" for name, field in FIELDS.items())
    return "\n".join(rows)


def _json_type(field: Field) -> str:
    kind: str = field.type
    if isinstance(field.values, tuple):
        objects = "of objects " if field.type == "array" else ""
        kind += f" {objects}with {' '.join(f'`{name}`' for name in field.values)}"
    elif field.values is not None:
        kind += f" of {field.values}s"
    return f"{kind} or null" if field.nullable else kind


def bench() -> str:
    """List the medians that scripts/bench wrote to docs/bench.json, and in brackets their ratio to HAProxy's."""
    measured = json.loads((ROOT / "docs" / "bench.json").read_text())
    medians = measured["medians"]
    rows = ["| | " + " | ".join(medians) + " |", "|---" * (len(medians) + 1) + "|"]
    for key, column in measured["columns"].items():
        cells = []
        for name, figures in medians.items():
            value, base = figures.get(key), medians["haproxy"].get(key)
            cell = "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004
            if name != "haproxy" and value is not None and base and column["more_is_better"] is not None:
                cell += f" ({value / base:.2f})"
            cells.append(cell)
        unit = column["unit"]
        rows.append(f"| {column['title']}{', ' + unit if unit else ''} | " + " | ".join(cells) + " |")
    rounds = max(map(len, measured["rounds"].values()))
    return f"{measured['machine']}; medians of {rounds} rounds:\n\n" + "\n".join(rows)


DOCUMENTS: Final[dict[str, tuple[Callable[[], str], ...]]] = {
    "docs/contract.md": (exits,),
    "docs/parameters.md": (parameters,),
    "docs/performance.md": (bench,),
    "docs/records.md": (records, fields),
}
"""The documents, and the functions that make their tables. The mark of a table is the name of its function."""


def render(document: str, text: str) -> str:
    """Put the current tables into the `text` of a document. Raises ValueError if a table has no place in it."""
    for make in DOCUMENTS[document]:
        before, after = f"<!-- {make.__name__} -->\n", f"<!-- /{make.__name__} -->\n"
        if text.count(before) != 1 or text.count(after) != 1:
            raise ValueError(f"{document} does not have one place for the table of {make.__name__}")
        head, _, rest = text.partition(before)
        text = head + before + make() + "\n" + after + rest.partition(after)[2]
    return text


if __name__ == "__main__":
    for document in DOCUMENTS:
        path = ROOT / document
        path.write_text(render(document, path.read_text()))
