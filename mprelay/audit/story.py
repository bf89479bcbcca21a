"""The report in sentences, and its values as a person reads them. Text and page say the same. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mprelay.audit.words import STOPS, VERDICTS
from mprelay.ctl.figures import address, size, span

_KIB: Final = 1024
_CELL: Final = 60  # characters


def clock(stamp: str | None, digits: int = 3) -> str:
    """Show a time of a record, with so many digits of its seconds' fraction: 2026-11-26 12:00:00.123 UTC."""
    if stamp is None:
        return "not known"
    end = len("2026-11-26T12:00:00") + (digits + 1 if digits else 0)
    return f"{stamp[:10]} {stamp[11:end]} UTC"


def clock_of_column(stamp: str | None) -> str:
    """Show a time of a record in a column whose title says UTC: 2026-11-26 12:00:00.123."""
    return clock(stamp).removesuffix(" UTC")


def shortened(text: str) -> str:
    """Return a text that fits a cell of a table."""
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"


def amount(count: int, what: str) -> str:
    """Say how many: 1 session, 2,000 sessions."""
    return f"{count} {what}" if count == 1 else f"{count:,} {what}s"


def moved(count: int) -> str:
    """Show bytes exactly, and roughly where that says more: 9,007,199,254,740,993 bytes (8.0 PiB)."""
    exact = amount(count, "byte")
    return exact if count < _KIB else f"{exact} ({size(count)})"


def briefly_moved(count: int) -> str:
    """Show bytes exactly, and roughly where that says more, for a narrow column: 2,048 B (2.0 KiB)."""
    exact = f"{count:,} B"
    return exact if count < _KIB else f"{exact} ({size(count)})"


def lasted(seconds: float) -> str:
    """Show how long something lasted: 0.123 s, 7.5 s, 1:02:03."""
    return f"{seconds:.3f} s" if seconds < 10 else span(seconds)  # noqa: PLR2004 - below, milliseconds matter


def place(ip: str | None, port: int | None) -> str:
    """Show an address, and the port if there is one."""
    if port is not None:
        return address(ip, port)
    return "?" if ip is None else ip


def of_clients(totals: Mapping[str, Any]) -> str:
    """Say how many clients there were."""
    return f"{'at most ' if totals['clients_at_most'] else ''}{amount(totals['clients'], 'client')}"


def of_run(run: Mapping[str, Any]) -> Iterator[str]:
    """Tell a run: who opened the door, when, whereto, how much went through, and why it ended."""
    door, totals = run["door"], run["totals"]
    if door["opened_at"] is not None:
        opener = door["opened_by"] or "Somebody whose name is not known"
        machine = f" on {door['host']}" if door["host"] else ""
        target = place(door["target_host"] or door["target_ip"], door["target_port"])
        yield (
            f"{opener} opened this door{machine} at {clock(door['opened_at'])}: "
            f"from {listening(door)} to {target}."
        )
    elif door["never_opened"]:
        yield "This door was never opened, because the relay could not start."
    if door["extended_until"] is not None:
        yield f"It was to close by itself at {clock(door['extended_until'])}, after it had been put off."
    elif door["expires_at"] is not None:
        yield f"It was to close by itself at {clock(door['expires_at'])}."
    elif door["opened_at"] is not None:
        yield "It was not to close by itself."
    yield (
        f"{amount(totals['sessions'], 'session')} of {of_clients(totals)} ended: "
        f"{moved(totals['bytes_from_client'])} came from clients, {moved(totals['bytes_from_target'])} from the "
        "target."
    )
    if run["unended"]["count"]:
        yield f"Of {amount(run['unended']['count'], 'session')} no end is recorded."
    refused = totals["refused"]
    yield (
        f"{amount(refused, 'connection')} {'was' if refused == 1 else 'were'} refused."
        if refused
        else ("No connection was refused.")
    )
    if door["stopped_at"] is not None:
        why = STOPS.get(door["stopped_because"] or "", "for a reason that this program does not know")
        yield f"The relay ended at {clock(door['stopped_at'])}: {why}."
    elif not door["never_opened"]:
        yield "The log does not show how the relay ended."


def listening(door: Mapping[str, Any]) -> str:
    """Say where a relay listened."""
    if door["listen_ip"] in {None, "*", "::", "0.0.0.0"}:  # noqa: S104 - compared, not bound
        return f"port {door['listen_port']}"
    return place(door["listen_ip"], door["listen_port"])


def of_seal(seal: Mapping[str, Any] | None) -> Iterator[str]:
    """Say what proves that a run's records are those that the relay wrote."""
    if seal is None:
        yield (
            "Not sealed: nothing proves that the records are as the relay wrote them. Whoever could write to the "
            "file could have changed them so that all figures still agree."
        )
    else:
        yield from seal["said"]


def of_verdict(report: Mapping[str, Any]) -> tuple[str, str]:
    """Say the verdict on all files, and how many records there are, from when to when."""
    if not report["records"]:
        return "Broken: no record was found.", "These files hold nothing that a relay has written."
    count = amount(report["records"], "record")
    return VERDICTS[report["verdict"]], f"{count}, from {clock(report['first'])} to {clock(report['last'])}."


def of_files(report: Mapping[str, Any]) -> Iterator[str]:
    """Say what of the files is not in the report."""
    runs = report["runs"]
    if len(runs) > 1:
        seals = [run["seal"] for run in runs if run["seal"] is not None and run["seal"]["verdict"] != "broken"]
        known = sum(seal["signer_known"] for seal in seals)
        yield f"Of {len(runs)} runs {len(seals)} are sealed, {known} of them by a signer that is known."
    others = sum(one["other_lines"] for one in report["files"])
    damages = report["troubles_count"] - others
    if damages:
        yield f"The files are damaged in {amount(damages, 'place')}, listed at the end."
    if others:
        yield f"{amount(others, 'line')} in the files {'is no record' if others == 1 else 'are no records'}."
    yield from report["hints"]
    if report["records_left_out"]:
        yield (
            "There are more runs than a report can tell apart. So "
            f"{amount(report['records_left_out'], 'record')} of further runs are left out: report fewer files."
        )


def of_door(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of the door, each with its name."""
    door = run["door"]
    clock_kept = {True: "yes", False: "no", None: None}[door["clock_synchronised"]]
    known = {
        "opened by": door["opened_by"],
        "on the machine": door["host"],
        "opened at": door["opened_at"] and clock(door["opened_at"]),
        "listened on": listening(door) if door["listen_port"] is not None else None,
        "led to": place(door["target_host"], door["target_port"]) if door["target_host"] else None,
        "for whom (ACL)": door["acl"],
        "sessions at most": door["max_sessions"],
        "was to close at": door["expires_at"] and clock(door["expires_at"]),
        "put off until": door["extended_until"] and clock(door["extended_until"]),
        "ended at": door["stopped_at"] and clock(door["stopped_at"]),
        "ended because": door["stopped_because"] and STOPS.get(door["stopped_because"], door["stopped_because"]),
        "lasted": None if door["uptime_s"] is None else lasted(door["uptime_s"]),
        "mprelay": door["version"],
        "pid": door["pid"],
        "clock synchronised": clock_kept,
    }
    labels = {f"label {key}": value for key, value in door["labels"].items()}
    options = ", ".join(f"{key}={value}" for key, value in door["options"].items())
    everything = {**labels, **known, "options, shortened": options or None}
    return [(name, str(value)) for name, value in everything.items() if value is not None]
