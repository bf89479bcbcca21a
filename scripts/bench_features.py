"""Measures what single features cost: a relay that has one, beside a relay that has not.

    scripts/bench-features [--only NAME ...] [--than FILE] [--relays N] [--rounds N] [--seconds S] [--json FILE]

Two relays run, one without a feature and one with it. Both get the same load at the same time, so that what else
this machine does meets both: 25 clients each make new connections, then requests on open connections. What is
compared is the CPU time of all their processes, not that of those who use the feature. The relays are started
anew several times, because two processes of one program differ too.

- **nothing**: the same relay twice, which shows how far ratios stray. With `--than` the one without is the
  program FILE, an mprelay of another commit.
- **list**: an ACL of 100,000 entries, the last of which decides.
- **control**, **watched**: a control socket that nobody uses, and one with what `mprelayctl watch` and
  `mprelayctl top` ask for.
- **metrics**, **scraped**, **hung**: metrics that nobody looks at, that are scraped each second, and whose
  readers hang: they fill all places, by half a request or by an answer that they do not read.
- **sealed**, **sealed full**: a sealed log, with one record for each session and with all eight. Its
  checkpoints go to a file too.
- **all**: control and metrics, watched, scraped, and with some readers that hang.

Three things are measured in turns, as what is felt by clients:

- **decide**: the decision about one address by 100,000 entries, beside that by one entry.
- **flood**: how long 100 clients wait for their session while another address is refused as often as it can
  connect, beside the time without that. None of them may be refused.
- **reload**: new connections while the list is read again all the time, beside those while it is not. Each list
  lets everybody in, by other entries. So a connection that is judged by parts of two lists is refused.

The table shows the medians of the rounds, and of their ratios. Needs wrk and nginx, which are packages of Debian.
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
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple, TypeAlias

from bench import (
    CPUS,
    HOST,
    HTTP_PORT,
    RELAY_PORT,
    Errors,
    Running,
    machine,
    program,
    web_target,
    wrk,
)
from rich.console import Console
from rich.table import Table

from mprelay.core.acl import Acl, Entry
from mprelay.ctl.client import Client
from mprelay.ctl.feed import Feed, Gone
from mprelay.metering.server import PLACES, TIME

OWN = Path(sys.executable).with_name("mprelay")
ENTRIES = 100_000
DECISIONS = 20_000
CLIENTS = 100
CLIENT_PAUSE = 0.1  # seconds between two sessions of a client
FLOOD_FROM = "127.0.0.2"
READING_PAUSE = 0.05  # seconds between two readings of the list
SCRAPE_PAUSE = 1.0  # seconds between two scrapes
START_LIMIT = 20.0  # seconds until a relay must be active
REFUSALS = {"connection.rejected", "connection.limited", "connection.pool_exhausted", "connection.abandoned"}
FAILURES = {"acl.reload_failed", "metrics.failed", "log.notes_lost"}
SOME = PLACES // 4  # of those who hang, while others are served

Pair: TypeAlias = tuple[float, float]
"""A figure without what is measured, and with it."""


class Relay(NamedTuple):
    """A relay to nginx, its files, its port, and the port of its metrics."""

    running: Running
    folder: Path
    port: int
    metrics: int


class Feature(NamedTuple):
    """What one of two relays has: options, and who uses it."""

    title: str
    options: tuple[str, ...] = ()
    users: tuple[Callable[[Relay], AbstractContextManager[None]], ...] = ()
    acl: str = f"{HOST}/32"
    detail: str = "session"
    """--log-detail of both relays."""


# -- those who use a feature ---------------------------------------------------------------------------------


@contextmanager
def again_and_again(do: Callable[[], None], pause: float) -> Iterator[None]:
    """Do something in a thread, with these pauses. Raises what it raises, at the end."""
    stop = threading.Event()
    failures: list[Exception] = []

    def run() -> None:
        try:
            wait = pause / 2
            while not stop.wait(wait):
                do()
                wait = pause
        except Exception as failure:  # noqa: BLE001 - it is raised by the other thread
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]


@contextmanager
def watching(relay: Relay) -> Iterator[None]:
    """Read all records, as `mprelayctl watch` does."""
    with Client(str(relay.folder / "control")) as client:
        thread = threading.Thread(target=lambda: deque(client.records(), maxlen=0))
        thread.start()
        try:
            yield
        finally:
            client.hang_up()
            thread.join()


@contextmanager
def topping(relay: Relay) -> Iterator[None]:
    """Take the samples of `mprelayctl top`, one each second."""
    said: list[object] = []
    feed = Feed(str(relay.folder / "control"))
    feed.start(said.append)
    try:
        yield
    finally:
        feed.close()
    if any(isinstance(news, Gone) for news in said):
        raise Errors(f"top: {said}")


@contextmanager
def scraping(relay: Relay) -> Iterator[None]:
    """Scrape the metrics."""

    def scrape() -> None:
        with urllib.request.urlopen(f"http://{HOST}:{relay.metrics}/metrics", timeout=5) as answer:
            if b"mprelay_sessions_active" not in answer.read():
                raise Errors("no metrics")

    with again_and_again(scrape, SCRAPE_PAUSE):
        yield


@contextmanager
def hanging(count: int, relay: Relay) -> Iterator[None]:
    """Hold so many connections to the metrics. Every other one sends half a request, the rest read no answer."""
    held = ExitStack()

    def hang() -> None:
        held.close()
        for number in range(count):
            sock = held.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least that the kernel allows
            sock.connect((HOST, relay.metrics))
            sock.sendall(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n" + b"\r\n" * (number % 2))

    with held, again_and_again(hang, TIME):  # which is how long a connection may last
        yield


SEALED = ("--seal", "--checkpoint-to", "{folder}/notes")

FEATURES = {
    "nothing": Feature("nothing"),
    "list": Feature(f"{ENTRIES:,} entries", acl="@{folder}/rules"),
    "control": Feature("a control socket", ("--control", "{folder}/control")),
    "watched": Feature(
        "a control socket, with watch and top", ("--control", "{folder}/control"), (watching, topping)
    ),
    "metrics": Feature("metrics", ("--metrics", "{host}:{metrics}")),
    "scraped": Feature("metrics, scraped", ("--metrics", "{host}:{metrics}"), (scraping,)),
    "hung": Feature(
        "metrics, with readers that hang", ("--metrics", "{host}:{metrics}"), (partial(hanging, PLACES),)
    ),
    "sealed": Feature("a sealed log", SEALED),
    "sealed full": Feature("a sealed log, eight records a session", SEALED, detail="full"),
    "all": Feature(
        "control and metrics, all of these",
        ("--control", "{folder}/control", "--metrics", "{host}:{metrics}"),
        (watching, topping, partial(hanging, SOME), scraping),
    ),
}

# -- two relays at once ---------------------------------------------------------------------------------------


def entries(count: int, seed: int) -> list[str]:
    """Make different entries, none of which is for loopback: nested, and every other one denies."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    found: dict[str, None] = {}
    while len(found) < count:
        address = f"{dice.randrange(128, 224)}.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(256)}"
        found[f"{'!' * (len(found) % 2)}{address}/{dice.randrange(12, 33)}"] = None
    return [*found]


@contextmanager
def running(feature: Feature, number: int, mprelay: Path = OWN) -> Iterator[Relay]:
    """Run a relay with a feature. Relays of different numbers can run at once.

    Raises Errors if anybody was refused who should not be.
    """
    port = RELAY_PORT + 2 * number
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        if "rules" in feature.acl:
            (folder / "rules").write_text("\n".join([*entries(ENTRIES, 1), f"{HOST}/32"]) + "\n")
            (folder / "rules").chmod(0o644)
        words = [str(mprelay), str(port), HOST, str(HTTP_PORT), feature.acl, *feature.options]
        words += ["--bind", HOST, "--workers", str(CPUS), "--max-sessions", "2000", "--log-format", "json"]
        words += ["--log-detail", feature.detail, "--stats-interval", "0"]
        words = [word.format(folder=folder, host=HOST, metrics=port + 1) for word in words]
        started = Running(words, folder, folder / "records")
        try:
            wait_until_active(folder / "records")
            wrk(port, 10, 1)  # warm
            yield Relay(started, folder, port, port + 1)
        finally:
            started.stop()
        judge(folder / "records")


def wait_until_active(path: Path) -> None:
    """Wait until a relay takes clients, by its records."""
    deadline = time.monotonic() + START_LIMIT
    while b'"relay.active"' not in path.read_bytes():
        if time.monotonic() > deadline:
            raise Errors("a relay does not become active")
        time.sleep(0.05)


def judge(path: Path) -> None:
    """Look at the records of a relay. Raises Errors if anybody was refused who should not be."""
    records = records_of(path)
    last = next(record for record in reversed(records) if record["event"] == "relay.stopped")
    refusals = [record["client_ip"] for record in records if record["event"] in REFUSALS]
    others = {*refusals} - {FLOOD_FROM}
    if last["exhausted"] or last["abandoned"] or others or (last["rejected"] and not refusals):
        raise Errors(f"refused: {others}, {last}")
    if refusals:
        print(f"  {last['rejected']} refused, in {len(refusals)} records", file=sys.stderr)
    if any(record["event"] in FAILURES for record in records):
        raise Errors("the reading of a file, the metrics process or the file of notes has failed")


def records_of(path: Path) -> list[dict[str, str]]:
    """Return the records of a relay, those of sessions left out."""
    with path.open("rb") as lines:
        return [json.loads(line) for line in lines if b'"event":"session.' not in line]


class Both(NamedTuple):
    """A relay without a feature, and one with it."""

    without: Relay
    with_it: Relay

    def cpu(self) -> Pair:
        """Return the CPU seconds of both so far."""
        return self.without.running.cpu(), self.with_it.running.cpu()

    def load(self, seconds: int, *, close: bool) -> tuple[Pair, Pair]:
        """Return the microseconds of CPU for a request (`close`: on its own connection), and the CPUs in use."""
        before, begun = self.cpu(), time.monotonic()
        with ThreadPoolExecutor() as pool:
            counts = [*pool.map(lambda relay: wrk(relay.port, 25, seconds, close=close)["count"], self)]
        took = time.monotonic() - begun
        without, with_it = (after - first for first, after in zip(before, self.cpu(), strict=True))
        return (without / counts[0] * 1e6, with_it / counts[1] * 1e6), (without / took, with_it / took)


def side_by_side(feature: Feature, than: Path, rounds: int, seconds: int, *, swap: bool) -> list[dict[str, Pair]]:
    """Measure two newly started relays at the same time: the program `than`, and ours with the feature."""
    measured = []
    nothing = FEATURES["nothing"]._replace(detail=feature.detail)
    with ExitStack() as stack:
        relays = {
            with_it: stack.enter_context(running(feature, number) if with_it else running(nothing, number, than))
            for number, with_it in enumerate([swap, not swap])
        }
        both = Both(relays[False], relays[True])
        for user in feature.users:
            stack.enter_context(user(both.with_it))
        for _ in range(rounds):
            connection, cpus = both.load(seconds, close=True)
            request, _ = both.load(seconds, close=False)
            measured.append(
                {"CPU per connection, µs": connection, "CPUs meanwhile": cpus, "CPU per request, µs": request}
            )
    return measured


# -- what is measured in another way -------------------------------------------------------------------------


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


async def honest(port: int, seconds: int) -> list[float]:
    """Let clients have one short session after the other; return how long each took, in ms, in order. Errors."""
    took: list[float] = []
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        await asyncio.sleep(CLIENT_PAUSE * number / CLIENTS)
        while time.monotonic() < end:
            begun = time.monotonic()
            reader, writer = await asyncio.open_connection(HOST, port, local_addr=(HOST, 0))
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


def refuse_me(port: int, stop: Event) -> None:
    """Connect as often as possible from an address that is not allowed."""
    while not stop.is_set():
        for _ in range(50):
            with suppress(OSError), socket.socket() as sock:
                sock.settimeout(5)
                sock.bind((FLOOD_FROM, 0))
                sock.connect((HOST, port))
                sock.recv(1)


def flood(seconds: int) -> dict[str, Pair]:
    """Measure clients without a flood, and beside one."""
    with running(FEATURES["nothing"], 0) as relay:
        calm = asyncio.run(honest(relay.port, seconds))
        stop = multiprocessing.Event()
        attacker = multiprocessing.Process(target=refuse_me, args=(relay.port, stop))
        attacker.start()
        try:
            beside = asyncio.run(honest(relay.port, seconds))
        finally:
            stop.set()
            attacker.join()
    return {
        f"p{percent} of {CLIENTS} clients, ms": (
            calm[len(calm) * percent // 100],
            beside[len(beside) * percent // 100],
        )
        for percent in (50, 99)
    }


def reload(seconds: int) -> dict[str, Pair]:
    """Measure new connections without readings, and during them."""
    with running(FEATURES["list"], 0) as relay:
        lists = [[HOST + "/32", *entries(1000, seed)] for seed in (2, 3)]
        lists[1] = [*lists[1][1:], "127.0.0.0/8"]

        def read_again() -> None:
            lists.reverse()
            new = relay.folder / "new"
            new.write_text("\n".join(lists[0]) + "\n")
            new.chmod(0o644)
            new.rename(relay.folder / "rules")
            relay.running.process.send_signal(signal.SIGHUP)

        without = wrk(relay.port, 50, seconds, close=True)
        with again_and_again(read_again, READING_PAUSE):
            during = wrk(relay.port, 50, seconds, close=True)
    return {
        "new connections/s": (without["rate"], during["rate"]),
        "p99 of new connections, ms": (without["p99"], during["p99"]),
    }


OTHERS: dict[str, tuple[str, Callable[[int], dict[str, Pair]]]] = {
    "decide": (f"{ENTRIES:,} entries", lambda _seconds: {"a decision, µs": decide()}),
    "flood": ("a flood of refused connections", flood),
    "reload": ("readings of the list", reload),
}

# -- all -----------------------------------------------------------------------------------------------------


def show(measured: dict[str, list[dict[str, Pair]]]) -> None:
    """Print the medians, and the ratios."""
    table = Table(title=machine())
    for title in ("with", "what", "rounds", "without", "with it", "ratio (lowest to highest)"):
        table.add_column(title, justify="left" if title in {"with", "what"} else "right")
    titles = {name: feature.title for name, feature in FEATURES.items()}
    titles |= {name: title for name, (title, _) in OTHERS.items()}
    for name, rounds in measured.items():
        for what in rounds[0]:
            pairs = [figures[what] for figures in rounds]
            ratios = sorted(with_it / without for without, with_it in pairs)
            without, with_it = (statistics.median(side) for side in zip(*pairs, strict=True))
            span = f"{statistics.median(ratios):.3f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            table.add_row(titles[name], what, str(len(pairs)), f"{without:,.4g}", f"{with_it:,.4g}", span)
        table.add_section()
    Console(width=140).print(table)


def main() -> int:
    """Measure as the arguments say; return the exit code."""
    names = [*FEATURES, *OTHERS]
    parser = argparse.ArgumentParser(description="Measure what single features of mprelay cost.")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="only these")
    parser.add_argument("--than", type=Path, default=OWN, metavar="FILE", help="the mprelay without the feature")
    parser.add_argument("--relays", type=int, default=3, help="how often two relays are started (default 3)")
    parser.add_argument("--rounds", type=int, default=10, help="how often these two are measured (default 10)")
    parser.add_argument("--seconds", type=int, default=1, help="how long each load runs (default 1)")
    parser.add_argument("--json", type=Path, help="write the figures of all rounds here")
    asked = parser.parse_args()
    lacking = [name for name in ("wrk", "nginx") if not program(name)]
    if lacking:
        print(f"bench-features: needs {', '.join(lacking)} (Debian's packages)", file=sys.stderr)
        return 1
    measured: dict[str, list[dict[str, Pair]]] = {name: [] for name in asked.only}
    with web_target():
        for number in range(asked.relays):
            for name in asked.only:
                print(f"{number + 1} of {asked.relays}: {name}", file=sys.stderr)
                if name in OTHERS:
                    measured[name].append(OTHERS[name][1](asked.seconds))
                else:
                    measured[name] += side_by_side(
                        FEATURES[name], asked.than, asked.rounds, asked.seconds, swap=bool(number % 2)
                    )
    show(measured)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "rounds": measured}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
