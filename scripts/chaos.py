"""Injects faults into a relay under load, in a seeded random order, and judges the result.

The load (``scripts/traffic.py``) checks every byte. Afterwards the records are compared with docs/contract.md and
with what the clients and the target saw: one ``session.closed`` for each serial, bytes exact if a session ended
normally, no session broken without a fault, nothing leaked. The exit code is 1 if anything is wrong.
"""

import argparse
import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

import mprelay
from mprelay.core.roster import LATE_LIMIT, PROBATION

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from support.judge import moment
from support.network import FAR, NEAR, Cable, Namespace, NotHere, bad_network
from support.processes import limit, open_files
from support.relay import Relay
from support.waiting import PATIENCE, eventually
from traffic import EARLY, HEADER, NORMAL, Plan, address_of, allowed, plan

MIB = 1 << 20
RSS_SLACK = 4 * MIB
"""Bytes that one process may grow by without a leak. The supervisor was seen to grow by 2 MiB: a stalled
collector leaves it with a heap for the records that waited, and a burst with one for its sessions."""

_WORKERS = 3
_PROBES = 4
_WARM_UP = 3.0  # seconds of load before the baseline is taken
_LONGEST_SESSION = 150.0  # seconds; clients give up by themselves after 100 of them
_NORMAL_ENDS = {"requester_read_closed", "target_read_closed"}
_AFTERMATH = 2.0  # seconds in which workers killed by a fault are replaced, while no session is admitted


class Peer:
    """A process of ``traffic.py``, and the lines that it wrote."""

    def __init__(self, *arguments: str) -> None:
        script = Path(__file__).with_name("traffic.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._in: Any = self.process.stdin
        self._out: Any = self.process.stdout
        self.lines: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for line in self._out:
            self.lines.append(json.loads(line))

    def say(self, command: str) -> None:
        """Send it a command."""
        self._in.write(command + "\n")
        self._in.flush()

    def first(self, name: str) -> Any:  # noqa: ANN401 - JSON
        """Wait for the first line that has this name, and return its value."""
        eventually(lambda: any(name in line for line in self.lines), f"{name} from the load")
        return next(line[name] for line in self.lines if name in line)

    def count(self, name: str) -> int:
        """Count the lines that have this name."""
        return sum(name in line for line in self.lines)

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._in.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._thread.join()
        self._out.close()


class Loopback:
    """All on this machine: the addresses of relay and target, and contexts to start processes in."""

    relay = target = "127.0.0.1"
    lossy = False
    options: tuple[str, ...] = ()
    cable: Cable

    def __init__(self) -> None:
        self.near: Callable[[], AbstractContextManager[None]] = nullcontext
        self.far: Callable[[], AbstractContextManager[None]] = nullcontext


class Network(Loopback):
    """The relay in one network namespace, clients and target in another, with a cable between them.

    The cable may lose a reset; then only a timeout ends the session. The cable is full under load, so a
    connection may come too late without any fault.
    """

    relay, target = NEAR, FAR
    lossy = True
    options = ("--idle-timeout", "10")

    def __init__(self, near: Namespace, far: Namespace, cable: Cable) -> None:
        super().__init__()
        self.near, self.far, self.cable = near.inside, far.inside, cable


@dataclasses.dataclass
class Caused:
    """A fault that was caused: its time, and the workers whose sessions it may touch."""

    name: str
    began: float  # monotonic
    workers: set[int]
    breaks: bool  # whether it may break a session; otherwise it may only delay one
    over: float = float("inf")
    leaked: int = 0
    hit: int = 0
    lost: int = 0


class Chaos:
    """One run."""

    def __init__(
        self, seed: str, stall: float, detail: str, net: Loopback, place: Path, *, seal: bool = False
    ) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - no secret
        self.stall = stall
        self.net = net
        self.caused: list[Caused] = []
        self.wrong: list[str] = []
        self._package = place / "mprelay"
        shutil.copytree(
            Path(mprelay.__file__).parent, self._package, ignore=shutil.ignore_patterns("__pycache__")
        )
        with net.far():
            self.target = Peer("target", seed, net.target)
        self.relay = Relay(
            (net.target, self.target.first("port")),
            *("--stats-interval", "1", "--log-detail", detail, *net.options, *(["--seal"] if seal else [])),
            acl=allowed(net.relay),
            workers=_WORKERS,
            host=net.relay,
            splicing=True,
            command=(sys.executable, "-m", "mprelay"),
            cwd=place,
            # A compiled file counts as up to date if its source's size and second match. A swap may keep both.
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.clients: Peer
        self.probes: Peer
        self.seed = seed
        self._seal = seal
        self.samples: list[tuple[float, dict[str, int], dict[str, int]]] = []
        """Of a soak: time (monotonic), descriptors and RSS (bytes) of each process."""

    # -- the relay's processes -------------------------------------------------------------------------------

    def pids(self) -> dict[int, int]:
        """Return the pid of each worker that is ready and alive."""
        return {number: pid for number, pid in self.relay.workers().items() if _lives(pid)}

    def all_ready(self) -> bool:
        """Whether no worker is missing."""
        return len(self.pids()) == _WORKERS

    def footprint(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return descriptors and RSS (bytes) of the supervisor and each worker."""
        named = {"supervisor": self.relay.process.pid}
        named |= {f"worker {number}": pid for number, pid in self.pids().items()}
        processes = {name: psutil.Process(pid) for name, pid in named.items()}
        return (
            {name: process.num_fds() for name, process in processes.items()},
            {name: process.memory_info().rss for name, process in processes.items()},
        )

    def supervisor_fds(self) -> int:
        """Count the supervisor's descriptors: the least in 0.1 s, because accepted batches come and go."""
        process, until = psutil.Process(self.relay.process.pid), time.monotonic() + 0.1
        least = process.num_fds()
        while time.monotonic() < until:
            least = min(least, process.num_fds())
        return least

    # -- faults ----------------------------------------------------------------------------------------------

    def _one(self) -> int:
        return self.dice.choice(sorted(self.pids()))

    @contextmanager
    def fault(self, name: str, workers: Iterable[int], *, breaks: bool = True) -> Any:  # noqa: ANN401
        """Note the fault caused inside, and wait until all workers are ready again."""
        before = self.supervisor_fds()
        self.caused.append(this := Caused(name, time.monotonic(), set(workers), breaks))
        yield
        eventually(self.all_ready, f"all workers again after {name}")
        this.over = time.monotonic()
        this.leaked = max(0, self.supervisor_fds() - before)

    def kill_worker(self) -> None:
        """Kill a worker with SIGKILL."""
        number = self._one()
        with self.fault("kill -9 of a worker", [number]):
            self._end(self.pids()[number], signal.SIGKILL)

    def crash_worker(self) -> None:
        """Kill a worker with SIGSEGV."""
        number = self._one()
        with self.fault("SIGSEGV of a worker", [number]):
            self._end(self.pids()[number], signal.SIGSEGV)

    def kill_all(self) -> None:
        """Kill all workers at once with SIGKILL."""
        pids = self.pids()
        with self.fault("kill -9 of all workers", pids):
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: not any(map(_lives, pids.values())), "their end")

    def _end(self, pid: int, number: signal.Signals) -> None:
        os.kill(pid, number)
        eventually(lambda: not _lives(pid), "its end")

    def stop_worker(self) -> None:
        """Stop a worker for a while: its sessions wait, and those being handed over to it may time out."""
        number = self._one()
        pid = self.pids()[number]
        with self.fault("SIGSTOP of a worker", [number]):
            _stopped(pid, self.stall / 2)

    def hang_worker(self) -> None:
        """Stop a worker for good: the supervisor notices that its reports are overdue, and replaces it.

        One without sessions owes no report, and one that replaced another may get no session while it is on
        probation.
        """
        number = self._one()
        pid = self.pids()[number]
        with self.fault("a worker hangs", [number]):
            os.kill(pid, signal.SIGSTOP)
            self.relay.wait("worker.unresponsive", pid=pid, patience=PROBATION + LATE_LIMIT + PATIENCE)
            eventually(lambda: not _lives(pid), "its end")

    def swap_package(self) -> None:
        """Upgrade the package under the running relay, and undo that. A worker of that build gets no session."""
        number = self._one()
        version = self._package / "__init__.py"
        text = version.read_text()
        with self.fault("package swapped", [number]):
            failed = len(self.relay.all("worker.start_failed"))
            version.write_text(text.replace('__version__ = "', '__version__ = "9.'))
            self._end(self.pids()[number], signal.SIGKILL)
            self.relay.wait("worker.start_failed", failed + 1)
            version.write_text(text)

    def stop_supervisor(self) -> None:
        """Stop the supervisor for a while: open sessions go on; new ones wait."""
        with self.fault("SIGSTOP of the supervisor", [], breaks=False):
            _stopped(self.relay.process.pid, self.stall / 2)

    def stall_collector(self) -> None:
        """Let the collector stand still in splice(2), which locks the pipe: sessions go on; new ones wait."""
        with self.fault("collector stalls in splice", [], breaks=False):
            self.relay.reading.clear()
            time.sleep(self.stall)
            self.relay.reading.set()

    def stop_target(self) -> None:
        """Stop the target for a while: everything waits."""
        with self.fault("target stalls", range(1, _WORKERS + 1)):
            _stopped(self.target.process.pid, self.stall / 2)

    def shut_target(self) -> None:
        """Close the target's listener for a while: connections are refused, and its backlog is reset."""
        with self.fault("target refuses", range(1, _WORKERS + 1)):
            self.target.say("shut")
            time.sleep(self.stall / 3)
            before = self.target.count("opened")
            self.target.say("open")
            eventually(lambda: self.target.count("opened") > before, "the target listens again")

    def starve_supervisor(self) -> None:
        """Cause EMFILE in the supervisor: accept(2) fails; new connections wait."""
        with (
            self.fault("no descriptors: supervisor", [], breaks=False),
            _no_descriptors(self.relay.process.pid),
        ):
            time.sleep(self.stall / 3)

    def starve_worker(self) -> None:
        """Cause EMFILE in a worker: new sessions are refused; others go on, and copy if they get no pipe."""
        number = self._one()
        with self.fault("no descriptors: worker", [number]), _no_descriptors(self.pids()[number]):
            time.sleep(self.stall / 3)

    def burst(self) -> None:
        """Make many connections at once, every second one from an address that the ACL refuses."""
        with self.fault("burst of 600, half rejected", [], breaks=False):
            self.clients.say("burst 600")

    def cut_cable(self) -> None:
        """Cut the cable for a while: TCP sends the data again, and a new connection may come too late."""
        with self.fault("cable cut", range(1, _WORKERS + 1)):
            self.net.cable.cut = True
            time.sleep(self.stall / 3)
            self.net.cable.cut = False

    def lose_packets(self) -> None:
        """Lose some packets, delay all, and let some overtake others."""
        with self.fault("packets lost, late, overtaken", range(1, _WORKERS + 1)):
            cable = self.net.cable
            cable.loss, cable.delay, cable.jitter = 0.02, 0.002, 0.004
            time.sleep(self.stall)
            cable.loss = cable.delay = cable.jitter = 0.0

    FAULTS = (
        kill_worker,
        crash_worker,
        kill_all,
        stop_worker,
        hang_worker,
        swap_package,
        stop_supervisor,
        stall_collector,
        stop_target,
        shut_target,
        starve_supervisor,
        starve_worker,
        burst,
    )
    FAULTS_OF_A_NETWORK = (cut_cable, lose_packets)

    # -- the run ---------------------------------------------------------------------------------------------

    def run(self, seconds: float, most: int, sessions: int) -> None:
        """Cause faults for about `seconds`, at most `most`, with `sessions` at once; then judge."""
        try:
            with ExitStack() as stack:
                with self.net.near():
                    stack.enter_context(self.relay)
                relay = (self.seed, self.net.relay, str(self.relay.port))
                with self.net.far():
                    target = (self.net.target, str(self.target.first("port")))
                    self.clients, self.probes = Peer("clients", *relay), Peer("probes", *relay, *target)
                try:
                    self._load(seconds, most, sessions)
                finally:
                    self.clients.close()
                    self.probes.close()
        finally:
            self.target.close()
        self._judge()

    def _load(self, seconds: float, most: int, sessions: int) -> None:
        self._go(sessions)
        time.sleep(_WARM_UP)
        self._rest(1)
        fds, rss = self.footprint()
        self._go(sessions)
        self.quiet_from = time.monotonic()
        time.sleep(_WARM_UP)
        self.quiet_to = until = time.monotonic()
        until += seconds
        faults = self.FAULTS + (self.FAULTS_OF_A_NETWORK if self.net.lossy else ())
        while most and time.monotonic() < until and len(self.caused) < most:
            for cause in self.dice.sample(faults, len(faults)):
                if time.monotonic() < until and len(self.caused) < most:
                    cause(self)
                    time.sleep(self.dice.random() / 2)
        while not most and time.monotonic() < until:
            self.samples.append((time.monotonic(), *self.footprint()))
            time.sleep(1.0)
        self._rest(2)
        self._compare(fds, rss)

    def _go(self, sessions: int) -> None:
        self.clients.say(f"go {sessions}")
        self.probes.say(f"go {_PROBES}")

    def _rest(self, times: int) -> None:
        """Wait until all sessions have ended, for the `times`-th time."""
        for peer in (self.clients, self.probes):
            peer.say("rest")
        for peer in (self.clients, self.probes):
            until = time.monotonic() + _LONGEST_SESSION
            while peer.count("resting") < times:
                if time.monotonic() > until:
                    raise TimeoutError("the load does not come to rest")
                time.sleep(0.05)
        # Unused pipes are closed within two seconds.
        said = self.relay.wait("relay.stats", len(self.relay.all("relay.stats")) + 4)
        until = time.monotonic() + (PATIENCE if self.net.lossy else 0.0)
        while said["active"] and time.monotonic() < until:
            said = self.relay.wait("relay.stats", len(self.relay.all("relay.stats")) + 1)
        if said["active"]:
            self.wrong.append(f"{said['active']} sessions are left when their clients are gone")

    def _compare(self, fds: dict[str, int], rss: dict[str, int]) -> None:
        fds_now, rss_now = self.footprint()
        if fds_now != fds:
            self.wrong.append(f"descriptors: {fds} at rest before, {fds_now} after")
        self.growth = {name: rss_now[name] - rss[name] for name in rss}
        for name, grown in self.growth.items():
            if grown > RSS_SLACK:
                self.wrong.append(f"RSS of the {name} grew by {grown / MIB:.1f} MiB")

    # -- the judge -------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Compare what clients and target saw with the records, which the checker has found complete."""
        if self._seal:
            self._verify()
        closed: dict[str, list[dict[str, Any]]] = {}
        for record in self.relay.records:
            if record["event"] == "session.closed":
                closed.setdefault(record["client_ip"], []).append(record)
            elif record["event"] == "internal.error":
                self.wrong.append(f"{record}")
        self.worker_of = {address: records[-1].get("worker") for address, records in closed.items()}
        served = {line["n"]: line for line in self.target.lines if "n" in line}
        self.ends: Counter[str] = Counter()
        self.bytes = 0
        refused = self._refused("connection.pool_exhausted", "exhausted")
        abandoned = self._refused("connection.abandoned", "abandoned")
        for line in self.clients.lines:
            if "n" not in line:
                continue
            address = self._address(line["n"])
            if address not in refused and address not in abandoned:
                self._judge_session(line, served.get(line["n"]), closed.get(address, []))
            elif line["received"] or line["how"] == "hung" or line["n"] in served:
                self.wrong.append(f"it was not admitted, and yet: {line}")
            elif address in abandoned and not any(
                fault.began <= line["ended"] and line["began"] <= fault.over + _AFTERMATH for fault in self.caused
            ):
                self.wrong.append(f"it was abandoned, though nothing had paused: {line}")
        for line in self.clients.lines:
            if line.get("stranger") in ("answered", "hung"):
                self.wrong.append(f"a stranger was {line['stranger']}")
        if not any(line.get("latencies") for line in self.probes.lines if line.get("at", 0.0) > self.quiet_to):
            self.wrong.append("no probe was answered")
        strangers = sum("stranger" in line for line in self.clients.lines)
        rejected = self._refused("connection.rejected", "rejected").total()
        if strangers != rejected:
            self.wrong.append(f"{strangers} strangers, {rejected} rejected")

    def _verify(self) -> None:
        """Check that the log is whole, and proves it."""
        command = [str(Path(sys.executable).with_name("mprelayctl")), "verify", "-"]
        said = subprocess.run(command, input=self.relay.output, capture_output=True, check=False)
        if said.returncode != 0:
            self.wrong.append(f"verify: {said.stdout.decode()}{said.stderr.decode()}")

    def _refused(self, event: str, kind: str) -> Counter[str]:
        """Count refused connections by address, in records of their own and summed up."""
        counts = Counter(record["client_ip"] for record in self.relay.all(event))
        for record in self.relay.all("connection.refused_more", refused=kind):
            counts[record["client_ip"]] += record["count"]
        return counts

    def _address(self, number: int) -> str:
        return address_of(self.net.relay, number)

    def _judge_session(
        self,
        seen: dict[str, Any],
        served: dict[str, Any] | None,
        records: list[dict[str, Any]],
    ) -> None:
        does = plan(self.seed, seen["n"])
        what = f"session of {self._address(seen['n'])} ({does.kind}, {does.up} up, {does.down} down)"
        ended = max(seen["ended"], served["ended"] if served else 0.0)
        wrong = []
        if seen["how"] == "hung":
            wrong.append("its client waits for ever")
        if not seen["right"] or (served and not served["right"]):
            wrong.append("wrong bytes")
        if seen["how"] == "end" and seen["received"] != (does.cut if does.kind == "target_reset" else does.down):
            wrong.append("a cut transfer looked complete to the client")
        leaves = does.kind in ("client_reset", "leave")
        if served and served["how"] == "end" and served["received"] != does.up and not leaves:
            wrong.append("a cut transfer looked complete to the target")
        if does.kind == "target_reset" and seen["how"] == "end":
            wrong.append("the target's reset did not arrive")
        if does.kind == "client_reset" and served and served["how"] == "end":
            wrong.append("the client's reset did not arrive")
        # Across a bad network a reset may come before the handshake is over. Then accept(2) never returns it.
        unseen = self.net.lossy and served is None and not seen["received"]
        if len(records) != 1 and not (unseen and not records):
            wrong.append(f"{len(records)} records of its end")
            if (fault := self._fault_of(seen, ended, None)) is not None:
                fault.lost += 1
        for record in records:
            wrong += self._judge_bytes(does.up, does.down, seen, served, record)
            # A client that has reset is gone before its session, which still delivers the client's data.
            over = moment(record["timestamp"]) - time.time() + time.monotonic()
            fault = self._fault_of(seen, max(ended, over), record.get("worker"))
            # Across a bad network a reset may get lost. Then a timeout ends the session, or a later fault.
            late = self.net.lossy and record["reason"] in ("connect_timeout", "idle_timeout", "linger_timeout")
            later = self.net.lossy and record["reason"] == "worker_lost"
            if fault is None and not late and not later:
                wrong += self._judge_names(does.kind, seen, record)
                if does.kind in EARLY:
                    wrong += self._judge_early(does, seen, served, record)
            if record["reason"] == "linger_timeout" and fault is None and not late:
                wrong.append("a linger timeout, though client and target read to the end or leave")
            self.ends[record["reason"]] += 1
            self.bytes += record["bytes_from_client"] + record["bytes_from_target"]
            fine = record["reason"] in _NORMAL_ENDS and record["error"] is None and seen["how"] == "end"
            if does.kind in NORMAL and not fine and not late:
                if fault is None:
                    wrong.append("broken, but by no fault")
                else:
                    fault.hit += 1
        self.wrong += [f"{what}: {text}; client {seen}, target {served}, records {records}" for text in wrong]

    def _judge_bytes(
        self, up: int, down: int, seen: dict[str, Any], served: dict[str, Any] | None, record: dict[str, Any]
    ) -> list[str]:
        client, target = record["bytes_from_client"], record["bytes_from_target"]
        complete = served and seen["how"] == served["how"] == "end"
        if record["reason"] == "worker_lost":  # the last known figures
            ok = client <= HEADER.size + seen["offered"] and target <= (served["offered"] if served else down)
        elif complete and record["error"] is None:
            ok = (client, target) == (HEADER.size + up, down)
        else:
            ok = client <= HEADER.size + seen["offered"] and target >= seen["received"]
            if served:
                ok = ok and target <= served["offered"] and client >= HEADER.size + served["received"]
        return [] if ok else ["bytes do not reconcile"]

    def _judge_early(
        self, does: Plan, seen: dict[str, Any], served: dict[str, Any] | None, record: dict[str, Any]
    ) -> list[str]:
        """Check that the data a side sent before it left with unread data arrived, and then the reset."""
        speaker = EARLY[does.kind]
        if speaker == "target":
            said, heard, told = does.down, seen, record["bytes_to_client"]
        else:
            said, heard, told = does.up, served or {"received": -1, "how": "nothing"}, record["bytes_to_target"]
            told -= HEADER.size
        if (heard["received"], heard["how"], told) != (said, "reset", said):
            return [f"the {speaker} said {said} bytes and left, heard were {heard['received']}, recorded {told}"]
        if (record[f"{speaker}_end"], record["error_from"]) != ("reset", speaker):
            return [f"{speaker}_end {record[f'{speaker}_end']}, error_from {record['error_from']}"]
        return []

    def _judge_names(self, kind: str, seen: dict[str, Any], record: dict[str, Any]) -> list[str]:
        """Check that the records name the side that ended first, and how. Only for sessions without a fault."""
        first = {"answer": "requester_read_closed", "push": "target_read_closed"}.get(kind)
        if first and seen["how"] == "end" and record["reason"] != first:
            return [f"{record['reason']}, though it is {first}"]
        if kind in ("target_reset", "client_reset"):
            side = kind.removesuffix("_reset")
            how = (record["error"], record["error_from"], record[f"{side}_end"])
            if how != ("ECONNRESET", side, "reset"):
                return [f"a reset of the {side} is recorded as {how}"]
        return []

    def _fault_of(self, seen: dict[str, Any], ended: float, worker: int | None) -> Caused | None:
        """Find the last fault that may have broken a session."""
        for fault in reversed(self.caused):
            touches = worker is None or worker in fault.workers
            if fault.breaks and touches and fault.began <= ended and seen["began"] <= fault.over:
                return fault
        return None

    def stalls(self) -> tuple[float, float, float, str]:
        """Return the longest delays of probes, in seconds, and the fault during the third.

        The first is from the time without faults. The second is past the relay, or while the machine did not run
        the probes. The third is of sessions that no fault touched. The time in which the probes did not run is
        left out, because the delay of an answer is not known then.
        """
        pauses = [line for line in self.probes.lines if "stood_still" in line]
        quiet = free = 0.0
        past = max((line["stood_still"] for line in pauses), default=0.0)
        what = ""
        for line in self.probes.lines:
            if "probe" not in line:
                continue
            began, over = line["began"], line["began"] + line["late"]
            late = line["late"] - max(
                (
                    min(over, pause["began"] + pause["stood_still"]) - max(began, pause["began"])
                    for pause in pauses
                ),
                default=0.0,
            )
            late = min(late, line["late"])
            worker = self.worker_of.get(line["probe"])
            then = [fault for fault in self.caused if fault.began <= over and began <= fault.over]
            if not line["probe"]:
                past = max(past, late)
            elif self.quiet_from <= began and over <= self.quiet_to:
                quiet = max(quiet, late)
            elif began > self.quiet_to and late > free and not any(worker in fault.workers for fault in then):
                free, what = late, ", ".join(fault.name for fault in then) or "no fault"
        return quiet, past, free, what

    def summary(self) -> dict[str, Any]:
        """Return the results of the run, for ``--json`` and :meth:`show`."""
        faults = {}
        for name in sorted({fault.name for fault in self.caused}):
            these = [fault for fault in self.caused if fault.name == name]
            sums = {what: sum(getattr(fault, what) for fault in these) for what in ("hit", "lost", "leaked")}
            faults[name] = {"times": len(these), **sums}
        quiet, past, free, what = self.stalls()
        return {
            "faults": faults,
            "sessions": self.relay.all("relay.stopped")[0]["admitted"],
            "bytes": self.bytes,
            "records": len(self.relay.records),
            "ends": dict(self.ends.most_common()),
            "longest_stall_s": {"without_faults": quiet, "not_hit": free, "during": what, "elsewhere": past},
            "growth": self.growth,
            "processes": self._processes(),
            "latencies": self._latencies() if self.samples else [],
            "wrong": self.wrong,
        }

    def _processes(self) -> dict[str, dict[str, Any]]:
        """Return how descriptors and RSS of each process changed in a soak."""
        times = [at / 3600 for at, _fds, _rss in self.samples]
        found = {}
        for name in self.samples[0][1] if self.samples else ():
            fds = [fds[name] for _at, fds, _rss in self.samples]
            rss = [rss[name] / 1024 for _at, _fds, rss in self.samples]
            half = len(rss) // 2
            slope = statistics.linear_regression(times[half:], rss[half:]).slope
            found[name] = {
                "descriptors": [min(fds), max(fds)],
                "rss_kib": [rss[0], rss[-1]],
                "kib_per_hour": slope,
            }
        return found

    def _latencies(self) -> list[dict[str, Any]]:
        """Return the latencies of the first and the last probes, in milliseconds."""
        pulses = [line for line in self.probes.lines if line.get("latencies") and line["at"] > self.quiet_to]
        window = min(300.0, (pulses[-1]["at"] - pulses[0]["at"]) / 2)
        first = [us for line in pulses if line["at"] <= pulses[0]["at"] + window for us in line["latencies"]]
        last = [us for line in pulses if line["at"] >= pulses[-1]["at"] - window for us in line["latencies"]]
        found = []
        for which, these in (("first", first), ("last", last)):
            p50, p99 = (statistics.quantiles(these, n=100)[index] / 1000 for index in (49, 98))
            found.append({"which": which, "seconds": window, "p50": p50, "p99": p99, "answers": len(these)})
        return found

    def show(self, console: Console) -> None:
        """Print the table, and everything that is wrong."""
        run = self.summary()
        table = Table("fault", *("times", "sessions hit", "lost", "leaked"))
        for column in table.columns[1:]:
            column.justify = "right"
        for name, counts in run["faults"].items():
            table.add_row(name, *map(str, counts.values()))
        console.print(table)
        console.print(
            f"{run['sessions']} sessions, {run['bytes'] / MIB:.0f} MiB, {run['records']} records; ends: "
            + ", ".join(f"{reason} {count}" for reason, count in run["ends"].items())
        )
        stall = run["longest_stall_s"]
        console.print(
            f"longest stall: {stall['without_faults'] * 1000:.0f} ms without faults, "
            f"{stall['not_hit'] * 1000:.0f} ms where none hit ({stall['during']}), "
            f"{stall['elsewhere'] * 1000:.0f} ms past the relay or not running; RSS grew by "
            + ", ".join(f"{grown / MIB:.1f} MiB ({name})" for name, grown in run["growth"].items())
        )
        for name, went in run["processes"].items():
            console.print(
                f"{name}: {went['descriptors'][0]} to {went['descriptors'][1]} descriptors; "
                f"RSS {went['rss_kib'][0]:.0f} to {went['rss_kib'][1]:.0f} KiB, "
                f"slope {went['kib_per_hour']:+.0f} KiB/h in the second half"
            )
        for took in run["latencies"]:
            console.print(
                f"probes, {took['which']} {took['seconds']:.0f} s: p50 {took['p50']:.2f} ms, "
                f"p99 {took['p99']:.2f} ms, {took['answers']} answers"
            )
        for text in self.wrong:
            console.print("WRONG:", text, style="bold", markup=False)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _stopped(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)


def _no_descriptors(pid: int) -> Any:  # noqa: ANN401 - a context manager
    """Allow a process no more descriptors than it has now."""
    return limit(pid, resource.RLIMIT_NOFILE, open_files(pid))


def main(argv: list[str] | None = None) -> int:
    """Run as the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults (default: %(default)s)")
    parser.add_argument(
        "--faults", type=int, default=10**6, help="at most so many; 0 is a soak (default: no limit)"
    )
    parser.add_argument("--sessions", type=int, default=40, help="at once (default: %(default)s)")
    parser.add_argument(
        "--stall",
        type=float,
        default=3.0,
        help="seconds that a stalled collector stands still (default: %(default)s)",
    )
    parser.add_argument(
        "--network",
        action="store_true",
        help="clients and target across a bad network, two namespaces and a cable (needs root)",
    )
    parser.add_argument("--log-detail", choices=("full", "session"), default="full")
    parser.add_argument("--seal", action="store_true", help="seal the log, and verify it afterwards")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    asked = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 140, soft_wrap=True, quiet=asked.json)
    console.print(f"seed {asked.seed}: {asked.seconds:g} s of faults, {asked.sessions} sessions at once")
    with ExitStack() as stack:
        try:
            net = Network(*stack.enter_context(bad_network())) if asked.network else Loopback()
        except NotHere as lack:
            parser.error(f"--network: {lack}")
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        chaos = Chaos(asked.seed, asked.stall, asked.log_detail, net, place, seal=asked.seal)
        chaos.run(asked.seconds, asked.faults, asked.sessions)
        if asked.json:
            print(json.dumps({"seed": asked.seed, **chaos.summary()}))
        else:
            chaos.show(console)
    return 1 if chaos.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
