"""Writes the tables of README between their marks: from the code and docs/bench.json.

    .venv/bin/python scripts/readme_tables.py

A test holds README against :func:`render`.
"""

import json
import re
from pathlib import Path

from mprelay.config.parameters import PARAMETERS
from mprelay.core.exits import Exit
from mprelay.records.catalogue import MESSAGES, SESSION_CLOSED, Message

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def options() -> str:
    """The parameters, in the order of the help."""
    rows = ["| parameter | option | values | default | |", "|---|---|---|---|---|"]
    for parameter in PARAMETERS:
        default = "required" if parameter.required else parameter.default or ""
        position = f"`{parameter.metavar}`" if parameter.position else ""
        option = (
            f"`{parameter.option}{'' if parameter.position else ' ' + parameter.metavar}`"
            if parameter.option
            else ""
        )
        rows.append(f"| {position} | {option} | {parameter.values} | {default} | {parameter.help} |")
    return "\n".join(rows)


def records() -> str:
    """The records, by number, ours last."""
    rows = ["| no. | event | level | carries besides the common fields | message |", "|---|---|---|---|---|"]
    reasons: dict[Message, list[str]] = {}
    for reason, message in SESSION_CLOSED.items():
        reasons.setdefault(message, []).append(f"`{reason.value}`")
    for message in sorted(dict.fromkeys(MESSAGES), key=lambda message: message.msg_id or 99):
        carries = " ".join(f"`{field}`" for field in message.fields)
        if message in reasons:
            carries = f"`reason` {' or '.join(reasons[message])}; see below"
        sentence = message.sentence.replace("<", "&lt;").replace("{", "*").replace("}", "*").replace("  ", " ")
        rows.append(f"| {message.msg_id or ''} | `{message.event}` | {message.level} | {carries} | {sentence} |")
    return "\n".join(rows)


def exits() -> str:
    """The exit codes."""
    return "\n".join(["| code | |", "|---|---|", *(f"| {code:d} | {code.meaning} |" for code in Exit)])


def figures() -> str:
    """What scripts/bench measured, as its JSON has it: the medians, and in brackets their ratio to HAProxy's."""
    bench = json.loads((ROOT / "docs" / "bench.json").read_text())
    medians = bench["medians"]
    rows = ["| | " + " | ".join(medians) + " |", "|---" * (len(medians) + 1) + "|"]
    for key, column in bench["columns"].items():
        cells = []
        for name, measured in medians.items():
            value, base = measured.get(key), medians["haproxy"].get(key)
            cell = "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004
            if name != "haproxy" and value is not None and base and column["more_is_better"] is not None:
                cell += f" ({value / base:.2f})"
            cells.append(cell)
        unit = column["unit"]
        rows.append(f"| {column['title']}{', ' + unit if unit else ''} | " + " | ".join(cells) + " |")
    rounds = max(map(len, bench["rounds"].values()))
    return f"{bench['machine']}; medians of {rounds} rounds:\n\n" + "\n".join(rows)


def render(text: str) -> str:
    """Put the current tables into README's `text`."""
    for name, table in (("options", options()), ("records", records()), ("bench", figures())):
        between = re.compile(f"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
        text, count = between.subn(lambda mark, table=table: mark[1] + table + mark[2], text)
        if count != 1:
            raise SystemExit(f"README has no place for the table of {name}")
    return text


if __name__ == "__main__":
    README.write_text(render(README.read_text()))
