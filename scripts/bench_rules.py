"""Measures what the rules cost: long lists, floods of refused connections, and lists that are read again.

    scripts/bench-rules [--rounds N] [--seconds S] [--json FILE]

- **deciding**: the decision about one address by 100,000 entries, beside that by one entry.
- **long list**: new connections through a relay whose ACL has 100,000 entries, beside one whose ACL has one.
- **flood**: how long 100 clients wait for their session while another address is refused as often as it can
  connect, beside the time without that. None of them may be refused.
- **reload**: new connections while the list is read again all the time, beside those while it is not. Each list
  lets everybody in, by other entries. So a connection that is judged by parts of two lists is refused.

Each round measures both sides, one after the other. The table shows the medians of the rounds, and of their
ratios. Needs wrk and nginx, which are packages of Debian.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path

from bench import (
    CPUS,
    HOST,
    HTTP_PORT,
    RELAY_PORT,
    Errors,
    Running,
    machine,
    program,
    wait_for_port,
    web_target,
    wrk,
)
from rich.console import Console
from rich.table import Table

from mprelay.core.acl import Acl, Entry

ENTRIES = 100_000
DECISIONS = 20_000
CLIENTS = 100
CLIENT_PAUSE = 0.1  # seconds between two sessions of a client
FLOOD_FROM = "127.0.0.2"
READING_PAUSE = 0.05  # seconds between two readings

Pair = tuple[float, float]
"""A figure without what is measured, and with it."""

# What is measured: name, unit.
ROWS = {
    "decide": (f"deciding: 1 entry, {ENTRIES:,} entries", "µs"),
    "list_rate": (f"long list: new connections with 1 entry, with {ENTRIES:,}", "/s"),
    "list_cpu": ("long list: CPU per connection", "µs"),
    "flood_p50": (f"flood: p50 of {CLIENTS} clients without it, beside it", "ms"),
    "flood_p99": (f"flood: p99 of {CLIENTS} clients", "ms"),
    "reload_rate": ("reload: new connections without it, during it", "/s"),
    "reload_p99": ("reload: p99", "ms"),
}


def entries(count: int, seed: int) -> list[str]:
    """Make different entries, none of which is for loopback: nested, and every other one denies."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    found: dict[str, None] = {}
    while len(found) < count:
        address = f"{dice.randrange(128, 224)}.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(256)}"
        found[f"{'!' * (len(found) % 2)}{address}/{dice.randrange(12, 33)}"] = None
    return [*found]


def decide() -> Pair:
    """Return the microseconds of a decision by one entry, and by many."""
    dice = random.Random(1)  # noqa: S311 - no secret
    clients = [f"{dice.randrange(128, 224)}.{n & 255}.{n >> 8}.{dice.randrange(256)}" for n in range(DECISIONS)]
    took = []
    for written in (["128.0.0.0/1"], entries(ENTRIES, 1)):
        acl = Acl.of([Entry.parse(text) for text in written])
        begun = time.perf_counter()
        for client in clients:
            acl.decide(client)
        took.append((time.perf_counter() - begun) / DECISIONS * 1e6)
    return took[0], took[1]


def relay(folder: Path, acl: str, *options: str) -> Running:
    """Start a relay to nginx with one record for each session. Its records go to the file `records`."""
    folder.chmod(0o755)
    words = [str(Path(sys.executable).with_name("mprelay")), str(RELAY_PORT), HOST, str(HTTP_PORT), acl]
    words += ["--bind", HOST, "--workers", str(CPUS), "--max-sessions", "2000", "--log-format", "json"]
    words += ["--log-detail", "session", "--stats-interval", "0", *options]
    started = Running(words, folder, folder / "records")
    wait_for_port(RELAY_PORT)
    return started


def with_relay(acl: str, measure: Callable[[Running, Path], None]) -> dict[str, int]:
    """Measure a relay with this ACL, `RULES` being a file of rules; return the number of records of each kind.

    Raises Errors if anybody was refused who should not be.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rules").write_text("\n".join([*entries(ENTRIES, 1), "127.0.0.1/32"]) + "\n")
        (folder / "rules").chmod(0o644)
        running = relay(folder, acl.replace("RULES", str(folder / "rules")))
        try:
            wrk(RELAY_PORT, 10, 1)  # warm
            measure(running, folder)
        finally:
            running.stop()
        records = [json.loads(line) for line in (folder / "records").read_bytes().splitlines()]
    counts: dict[str, int] = {}
    for record in records:
        counts[record["event"]] = counts.get(record["event"], 0) + 1
    last = records[-1]
    if last["exhausted"] or last["abandoned"] or (last["rejected"] and FLOOD_FROM not in refused(records)):
        raise Errors(f"refused: {last}")
    if counts.get("acl.reload_failed") or refused(records) - {FLOOD_FROM}:
        raise Errors(f"refused: {refused(records)}, {counts}")
    return counts | {"rejected": last["rejected"]}


def refused(records: list[dict[str, str]]) -> set[str]:
    """Return who was refused."""
    return {
        record["client_ip"]
        for record in records
        if record["event"] in {"connection.rejected", "connection.refused_more"}
    }


def long_list(seconds: int) -> dict[str, Pair]:
    """Measure new connections with one entry, and with many, the last of which decides."""
    rates, cpus = [], []

    def measure(running: Running, _folder: Path) -> None:
        before = running.cpu()
        found = wrk(RELAY_PORT, 50, seconds, close=True)
        rates.append(found["rate"])
        cpus.append((running.cpu() - before) / found["count"] * 1e6)

    for acl in ("127.0.0.1/32", "@RULES"):
        with_relay(acl, measure)
    return {"list_rate": (rates[0], rates[1]), "list_cpu": (cpus[0], cpus[1])}


async def honest(seconds: int) -> list[float]:
    """Let clients have one short session after the other; return how long each took, in ms, in order. Errors."""
    took: list[float] = []
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        await asyncio.sleep(CLIENT_PAUSE * number / CLIENTS)
        while time.monotonic() < end:
            begun = time.monotonic()
            reader, writer = await asyncio.open_connection(HOST, RELAY_PORT, local_addr=(HOST, 0))
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            if not await asyncio.wait_for(reader.read(), 10):
                raise Errors("an honest client was refused")
            took.append((time.monotonic() - begun) * 1000)
            writer.close()
            await asyncio.sleep(CLIENT_PAUSE)

    try:
        await asyncio.gather(*[client(number) for number in range(CLIENTS)])
    except OSError as failure:
        raise Errors(f"an honest client: {failure}") from failure
    return sorted(took)


def refuse_me(stop: Event) -> None:
    """Connect as often as possible from an address that is not allowed."""
    while not stop.is_set():
        for _ in range(50):
            with suppress(OSError), socket.socket() as sock:
                sock.settimeout(5)
                sock.bind((FLOOD_FROM, 0))
                sock.connect((HOST, RELAY_PORT))
                sock.recv(1)


def flood(seconds: int) -> dict[str, Pair]:
    """Measure clients without a flood, and beside one."""
    found: list[list[float]] = []

    def measure(_running: Running, _folder: Path) -> None:
        found.append(asyncio.run(honest(seconds)))
        stop = multiprocessing.Event()
        attacker = multiprocessing.Process(target=refuse_me, args=(stop,))
        attacker.start()
        try:
            found.append(asyncio.run(honest(seconds)))
        finally:
            stop.set()
            attacker.join()

    counts = with_relay("127.0.0.1/32", measure)
    records = counts.get("connection.rejected", 0) + counts.get("connection.refused_more", 0)
    print(f"  {counts['rejected']:,} refused in {records} records", file=sys.stderr)
    calm, beside = found
    return {
        f"flood_p{percent}": (calm[len(calm) * percent // 100], beside[len(beside) * percent // 100])
        for percent in (50, 99)
    }


def reload(seconds: int) -> dict[str, Pair]:
    """Measure new connections without readings, and during them."""
    found: list[dict[str, float]] = []

    def measure(running: Running, folder: Path) -> None:
        lists = [[HOST + "/32", *entries(1000, seed)] for seed in (2, 3)]
        lists[1] = [*lists[1][1:], "127.0.0.0/8"]
        stop = threading.Event()

        def again() -> None:
            turn = 0
            while not stop.wait(READING_PAUSE):
                turn += 1
                new = folder / "new"
                new.write_text("\n".join(lists[turn % 2]) + "\n")
                new.chmod(0o644)
                new.rename(folder / "rules")
                running.process.send_signal(signal.SIGHUP)

        found.append(wrk(RELAY_PORT, 50, seconds, close=True))
        thread = threading.Thread(target=again)
        thread.start()
        try:
            found.append(wrk(RELAY_PORT, 50, seconds, close=True))
        finally:
            stop.set()
            thread.join()

    counts = with_relay("@RULES", measure)
    print(f"  the list was read again {counts.get('acl.reloaded', 0)} times, nobody was refused", file=sys.stderr)
    without, during = found
    return {f"reload_{key}": (without[key], during[key]) for key in ("rate", "p99")}


def main() -> int:
    """Measure as the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(description="Measure what the rules of mprelay cost.")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--seconds", type=int, default=4, help="how long each load runs (default 4)")
    parser.add_argument("--json", type=Path, help="write the figures of all rounds here")
    asked = parser.parse_args()
    lacking = [name for name in ("wrk", "nginx") if not program(name)]
    if lacking:
        print(f"bench-rules: needs {', '.join(lacking)} (Debian's packages)", file=sys.stderr)
        return 1
    rounds: list[dict[str, Pair]] = []
    with web_target():
        for number in range(asked.rounds):
            print(f"round {number + 1} of {asked.rounds}", file=sys.stderr)
            figures = {"decide": decide()}
            for measured in (long_list, flood, reload):
                figures |= measured(asked.seconds)
            rounds.append(figures)
    table = Table(title=f"{machine()}: medians of {asked.rounds} rounds")
    for title in ("", "without", "with", "ratio (lowest to highest)"):
        table.add_column(title, justify="left" if not title else "right")
    for key, (title, unit) in ROWS.items():
        pairs = [figures[key] for figures in rounds]
        ratios = sorted(with_it / without for without, with_it in pairs)
        without, with_it = (statistics.median(side) for side in zip(*pairs, strict=True))
        span = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        table.add_row(f"{title}, {unit}", f"{without:,.4g}", f"{with_it:,.4g}", span)
    Console(width=130).print(table)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "rounds": rounds}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
