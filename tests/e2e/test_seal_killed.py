"""A sealed relay under load that is killed at any moment: what it leaves is open or whole, and never broken.

Each case has a seed, which decides what is done, and when. ``MPRELAY_SEEDS=17,18`` tries those again that failed,
``MPRELAY_SEEDS=0:300`` as many as one has patience for.
"""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
from typing import Any, NamedTuple

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: process groups, and a library that Wine 8 cannot load", allow_module_level=True)

import resource

from support.judge import check_run
from support.launching import PROGRAM
from support.patches import CHECKPOINT_LINES, IN_SUPERVISOR, KEY_CHECKPOINTS, assigned, with_site
from support.peers import connect, echoing, free_port, receive
from support.processes import limit, outlet_of, workers_of
from support.waiting import PATIENCE, eventually, pass_time

from mprelay.audit import program
from mprelay.ctl.program import make_parser

pytestmark = pytest.mark.posix("process groups, and a library that Wine 8 cannot load")

ENDS = (
    "supervisor",
    "supervisor while it starts",
    "worker, then SIGTERM",
    "outlet",
    "outlet, which has much to write",
    "outlet, whose disk is full",
    "group",
    "group while it drains",
    "SIGTERM",
    "SIGTERM twice",
    "reader stops, then group",
    "reader stops, then SIGTERM",
    "reader goes away",
)
"""What is done. Whoever is not said to get a signal is killed by SIGKILL."""

ORDERLY = {"worker, then SIGTERM", "SIGTERM", "reader stops, then SIGTERM"}
"""After these a log is whole."""


def seeds():
    """Each end once, and five times where slow tests run; or those that the environment names."""
    if named := os.environ.get("MPRELAY_SEEDS"):
        first, colon, end = named.partition(":")
        return range(int(first), int(end)) if colon else [*map(int, named.split(","))]
    few = len(ENDS)
    return [*range(few), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(few, 5 * few))]


class Collector:
    """Reads a pipe to a file, as most collectors do. It can stand still, or go away."""

    def __init__(self, path) -> None:
        self._reader, self.writer = os.pipe()
        self._path = path
        self.reading = threading.Event()
        self.reading.set()
        self._gone = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with self._path.open("ab", buffering=0) as file, os.fdopen(self._reader, "rb", buffering=0) as pipe:
            while not self._gone and (part := pipe.read(4000)):  # it knows nothing of lines
                file.write(part)
                self.reading.wait()

    def go_away(self) -> None:
        """Close the pipe after the next bytes that come, whatever else is in it."""
        self._gone = True
        self.end()

    def end(self) -> None:
        """Read to the end."""
        self.reading.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "somebody still holds stdout"


class Case:
    """One relay, from its start to its end."""

    def __init__(self, seed, directory, port, target) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - no secret
        self.end = ENDS[seed % len(ENDS)]
        self.log = directory / "log"
        self.notes = directory / "notes"
        self.log.touch()
        self._port = port
        piped = "reader" in self.end or ("disk" not in self.end and self.dice.random() < 0.4)
        self._collector = Collector(self.log) if piped else None
        lines, checkpoints = self.dice.choice([(10, 2), (40, 5), (1000, 360)])
        self.log_format = self.dice.choice(["json", "json", "ecs", "ocsf", "gcp"])
        code = IN_SUPERVISOR + "; ".join(
            [assigned(CHECKPOINT_LINES, f"{lines}"), assigned(KEY_CHECKPOINTS, f"{checkpoints}")]
        )
        self._command = [
            *(PROGRAM, str(port), target[0], str(target[1]), "127.0.0.0/8"),
            *("--workers", "2", "--seal", "--checkpoint-to", str(self.notes)),
            *("--drain-timeout", "1", "--log-format", self.log_format),
        ]
        self._env = with_site(directory, code)
        self.code = 0

    def run(self) -> None:
        """Start the relay, and end it."""
        with contextlib.ExitStack() as stack:
            stdout = self._collector.writer if self._collector else os.open(self.log, os.O_WRONLY | os.O_APPEND)
            options = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": subprocess.PIPE}
            self.relay = stack.enter_context(
                subprocess.Popen(self._command, env=self._env, start_new_session=True, **options)
            )
            os.close(stdout)
            stack.callback(self._kill_all)
            if self.end == "supervisor while it starts":
                pass_time(self.dice.uniform(0, 0.7))
                self.relay.kill()
            else:
                self._wait_for(b"relay.active")
                stack.enter_context(self._traffic())
                self._wait_for_size(self.log.stat().st_size + self.dice.randrange(100_000))
                pass_time(self.dice.uniform(0, 0.02))
                self._finish()
            self.relay.communicate(timeout=PATIENCE)  # the outlet holds stderr, and may end later
            self.code = self.relay.returncode
            if self._collector:
                self._collector.end()

    def _kill_all(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.relay.pid, signal.SIGKILL)
        if self._collector:
            self._collector.reading.set()

    def _wait_for(self, word: bytes) -> None:
        eventually(lambda: word in self.log.read_bytes() or self.relay.poll() is not None, str(word))

    def _wait_for_size(self, size: int) -> None:
        eventually(lambda: self.log.stat().st_size >= size, "that many records")

    @contextlib.contextmanager
    def _traffic(self) -> Any:
        """Sessions, one after another, from several clients."""
        over = threading.Event()

        def talk():
            while not over.is_set():
                try:
                    with connect(("127.0.0.1", self._port)) as client:
                        client.sendall(b"x")
                        receive(client, 1)
                except (OSError, AssertionError):  # refused, reset, or ended without a reply
                    over.wait(0.005)

        threads = [threading.Thread(target=talk) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._kill_all()
            over.set()
            for thread in threads:
                thread.join()

    def _finish(self) -> None:
        relay, dice = self.relay, self.dice
        match self.end:
            case "supervisor":
                relay.kill()
            case "worker, then SIGTERM":
                for _ in range(dice.randint(1, 3)):
                    eventually(lambda: workers_of(relay.pid), "a worker that has not been killed")
                    for worker in workers_of(relay.pid)[: dice.randint(1, 2)]:
                        worker.kill()
                    pass_time(dice.uniform(0, 0.2))
                relay.terminate()
            case "outlet":
                outlet_of(relay.pid).kill()
            case "outlet, which has much to write":
                outlet = outlet_of(relay.pid)
                outlet.suspend()
                pass_time(dice.uniform(0.05, 0.3))
                outlet.resume()
                pass_time(dice.choice([0, dice.uniform(0, 0.001)]))
                outlet.kill()
            case "outlet, whose disk is full":
                most = self.log.stat().st_size + dice.randrange(20_000)
                with limit(outlet_of(relay.pid).pid, resource.RLIMIT_FSIZE, most):
                    self._wait_for_size(most)
                    self._kill_all()
            case "group":
                self._kill_all()
            case "group while it drains":
                relay.terminate()
                pass_time(dice.uniform(0, 0.05))
                self._kill_all()
            case "SIGTERM":
                relay.terminate()
            case "SIGTERM twice":
                relay.terminate()
                pass_time(dice.uniform(0, 0.05))
                relay.terminate()
            case "reader stops, then group":
                self._collector.reading.clear()
                pass_time(dice.uniform(0, 0.3))
                self._kill_all()
            case "reader stops, then SIGTERM":
                self._collector.reading.clear()
                pass_time(dice.uniform(0, 0.3))
                relay.terminate()
                self._collector.reading.set()
            case "reader goes away":
                self._collector.go_away()
        relay.wait(PATIENCE)


class Left(NamedTuple):
    """What a log has, by a look at the records only: nothing here knows of trees or signatures."""

    lines: int
    sealed: int
    torn: bool
    closed: bool
    sizes: list[int]
    """Those of the checkpoints."""


def shape(record):
    """Return `seq`, `event` and `size` of a record in any format."""
    if "ecs" in record:
        return record["event"]["sequence"], record["event"]["action"], record.get("mprelay", {}).get("size")
    if "class_uid" in record:
        return (
            record["metadata"]["sequence"],
            record["metadata"]["event_code"],
            record.get("unmapped", {}).get("size"),
        )
    return record["seq"], record["event"], record.get("size")


def left_of(data, log_format):
    """Look at a log."""
    *lines, rest = data.split(b"\n")
    records = [json.loads(line) for line in lines]
    shapes = [shape(record) for record in records]
    assert [seq for seq, _, _ in shapes] == list(range(1, len(lines) + 1))
    if log_format == "json":
        check_run(records, ended=False)
    checkpoints = [(seq, size) for seq, event, size in shapes if event == "log.checkpoint"]
    return Left(
        lines=len(lines),
        sealed=checkpoints[-1][0] if checkpoints else 0,
        torn=bool(rest),
        closed=[event for _, event, _ in shapes[-2:]] == ["relay.stopped", "log.checkpoint"],
        sizes=[size for _, size in checkpoints],
    )


def sizes_of(notes):
    """The sizes in a file of notes, the whole ones."""
    return [int(note.split("\n")[1]) for note in notes.split("mprelay/")[1::2]]


def verify(*words):
    """Run `verify`: exit code, and what it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = program.run(make_parser().parse_args(["verify", *map(str, words)]), as_json=True)
    return code, json.loads(said.getvalue() or "null")


def judge(case):
    """Compare what `verify` says with what the log and the notes have."""
    left = left_of(case.log.read_bytes(), case.log_format)
    code, said = verify(case.log)
    if left.lines == 0:
        assert (code, said["runs"]) == (1, [])  # there is nothing that could be sealed
        assert case.end == "supervisor while it starts"
        return
    (run,) = said["runs"]
    whole = left.closed and not left.torn
    assert (code, said["verdict"]) == ((0, "whole") if whole else (3, "open")), said
    assert run["verdict"] == ("whole" if left.closed else "open")
    assert (run["fault"], run["lines"], run["sealed"]) == (None, left.lines, left.sealed)
    assert run["unsealed"] == ([left.sealed + 1, left.lines] if left.sealed < left.lines else None)
    assert [fault["what"] for fault in said["faults"]] == ["cut"] * left.torn
    noted = sizes_of(case.notes.read_text())
    if case.end in ORDERLY:
        assert whole
        assert (case.code, noted) == (0, left.sizes)
    if case.end == "reader goes away" and noted[-1:] > left.sizes[-1:]:
        # It has left a checkpoint in the pipe. The relay has written it, and the log has not got it.
        code, said = verify("--notes", case.notes, case.log)
        assert (code, said["runs"][0]["fault"]["what"]) == (1, "notes")
        assert "the log was cut off" in said["runs"][0]["fault"]["problem"]
        return
    assert noted == left.sizes[: len(noted)]
    hints = (
        []
        if noted
        else [f"The notes have no checkpoint of run {run['relay_id']}: they cannot show that its end is missing."]
    )
    assert verify("--notes", case.notes, case.log) == (code, said | {"hints": hints})


@pytest.mark.parametrize("seed", seeds())
def test_what_a_killed_relay_leaves_is_never_broken(tmp_path, seed):
    with echoing() as server:
        case = Case(seed, tmp_path, free_port(), server.getsockname())
        case.run()
    judge(case)
