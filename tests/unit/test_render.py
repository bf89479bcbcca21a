"""Renderers: the text of a record's line."""

import pytest
from support.kept import Kept

from mprelay.core.admission import Outcome, Verdict
from mprelay.core.protocol import Closed, CloseReason
from mprelay.records import catalogue
from mprelay.records.about import About
from mprelay.records.render import RENDERERS, renderer


@pytest.mark.parametrize(
    ("log_format", "terminal", "chosen"),
    [
        ("auto", True, "text"),
        ("auto", False, "json"),
        ("json", True, "json"),
        ("text", False, "text"),
    ],
)
def test_auto_is_text_on_a_terminal(log_format, terminal, chosen):
    """Otherwise it is JSON."""
    assert renderer(log_format, About("1"), terminal=terminal) is RENDERERS[chosen]


def test_text_is_the_manuals_sentence():
    """The line is TIMESTAMP LEVEL message."""
    kept = Kept("text")
    kept.book.enter(("192.0.2.8", 1), Verdict(Outcome.REJECTED, "10.0.0.0/8"), 1.25, 1.25)
    kept.recorder.flush()
    attempt = b"1970-01-01T00:00:01.250000Z INFO Connection attempt made from 192.0.2.8.\n"
    reject = b"1970-01-01T00:00:01.250000Z WARNING Connection from 192.0.2.8 rejected due to ACL mismatch.\n"
    assert kept.lines == [attempt, reject]


def test_text_says_who_it_was_if_the_other_lines_are_left_out():
    """Client, target, proxy, and the entry that decided."""
    kept = Kept("text", every_message=False)
    rejected = Verdict(Outcome.REJECTED, "no entry")
    kept.book.enter(("192.0.2.8", 1), rejected, 1.25, 1.25, proxy=("10.0.0.80", 2))
    kept.admit(("192.0.2.7", 4711), 1.0, 1.0)
    kept.close(Closed(1, 2.0, 1234.5678, *[None] * 6, 0, 0, 0, 0), CloseReason.DRAINED)
    kept.recorder.write(catalogue.ADMISSION_PAUSED)
    kept.recorder.flush()
    refused, closed, paused = kept.lines
    assert refused.endswith(b" (client 192.0.2.8, proxy 10.0.0.80, by no entry)\n")
    assert closed.endswith(b", 1.235 s, client 192.0.2.7, target 192.0.2.1, by ANY)\n")
    assert paused.endswith(b" keep up.\n")


def test_text_shows_facts_that_the_sentence_leaves_out():
    """They are why a start failed, the problem with an argument, and how a session went.

    JSON has them in fields.
    """
    kept = Kept("text")
    wrong = "<fwd port> '0' must be a whole number"
    kept.recorder.refuse("fwd_port", "0", catalogue.FWD_PORT_INVALID, wrong)
    kept.recorder.refuse("workers", "0", catalogue.CONFIG_INVALID, "--workers\n'0' must be more.")
    kept.recorder.write(catalogue.LISTENER_BIND_FAILED, error="EADDRINUSE")
    kept.recorder.write(catalogue.POOL_START_FAILED, error=None, detail="worker 1 hangs")
    kept.recorder.write(catalogue.WORKER_DIED, worker=1, pid=2, exitcode=None, signal="SIGKILL")
    kept.recorder.write(catalogue.WORKER_DIED, worker=1, pid=2, exitcode=70, signal=None)
    kept.recorder.write(catalogue.WORKER_EXITED, worker=1, pid=2, exitcode=0, signal=None)
    given = {"command": "kill", "arguments": {"client": "192.0.2.0/24"}, "peer_uid": 0, "peer_pid": 7}
    kept.recorder.write(catalogue.CONTROL_COMMAND, **given, ok=True, problem=None)
    kept.book.stopped("drained", 1.0)
    kept.recorder.flush()
    assert [line.decode().split(" ", 1)[1].rstrip("\n") for line in kept.lines] == [
        f"ERROR Error: <fwd port> must be between 1 and 65535 inclusive. ({wrong})",
        "ERROR Error: --workers\\x0a'0' must be more.",
        "CRITICAL Error: Could not bind listener port to socket. (EADDRINUSE)",
        "CRITICAL Error: Unable to start the maintenance thread. (worker 1 hangs)",
        "ERROR Worker 1 died; its sessions are lost. (SIGKILL)",
        "ERROR Worker 1 died; its sessions are lost. (exit code 70)",
        "INFO Worker 1 has ended.",
        "INFO The command kill was given by uid 0. (client 192.0.2.0/24)",
        "INFO The relayer has stopped. (drained)",
    ]


@pytest.mark.parametrize(("error", "last"), [(None, ""), ("ECONNRESET", ", ECONNRESET")])
def test_text_shows_how_a_session_went(error, last):
    """It shows the client's port, the bytes both ways, the seconds, and the error's name."""
    kept = Kept("text")
    kept.admit(("192.0.2.7", 4711), 1.0, 50.0)
    reason = CloseReason.TARGET_READ_CLOSED
    kept.close(Closed(1, 2.0, 1234.5678, reason, error, None, None, None, "192.0.2.99", 78, 187, 187, 78), reason)
    kept.recorder.flush()
    assert kept.lines[-1].decode().split(" ", 1)[1] == (
        "INFO Session handler serial number 1 terminated due to target read closure. "
        f"(client port 4711, 78 bytes from the client, 187 from the target, 1.235 s{last})\n"
    )


def test_text_lists_the_addresses_of_a_name():
    kept = Kept("text")
    kept.recorder.write(catalogue.TARGET_RESOLVED, 1.0, target_host="db", addresses=["::1", "192.0.2.1"])
    kept.recorder.flush()
    assert kept.lines[0].endswith(b" The target's name db was looked up. (::1, 192.0.2.1)\n")


COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}


@pytest.mark.parametrize("level", COLOURS)
@pytest.mark.parametrize("log_detail", ["full", "session"])
def test_text_in_colour_differs_in_the_level_only(level, log_detail):
    """A value that holds an escape sequence shows it as text."""
    record = {
        "timestamp": "2026-11-26T12:00:00.000000Z",
        "level": level,
        "event": "connection.proxy_invalid",
        "message": "it said \x1b[2J\x9b31m",
        "client_ip": "192.0.2.7",
    }
    lines = [
        renderer("auto", About("1"), terminal=True, coloured=coloured, log_detail=log_detail)(record).decode()
        for coloured in (True, False)
    ]
    coloured, plain = lines
    word = level.upper()
    assert coloured == plain.replace(word, f"\x1b[{COLOURS[level]}m{word}\x1b[0m", 1)
    assert plain.startswith(f"2026-11-26T12:00:00.000000Z {word} it said \\x1b[2J\\x9b31m")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_colour_but_on_a_terminal(log_format):
    """Not even where colours are shown by a stream that is no terminal; and never in JSON."""
    plain = renderer(log_format, About("1"), terminal=False, coloured=True)
    assert plain is RENDERERS[log_format]
    assert renderer("json", About("1"), terminal=True, coloured=True) is RENDERERS["json"]
