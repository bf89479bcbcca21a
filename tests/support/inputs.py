"""Rules for any bytes from outside: one function for each input, which raises if its rule is broken.

    argv, file ───▶ cli, config ─▶ refusals or a Config ─▶ book, recorder ─▶ lines
    ACL, clients ─▶ acl
    addresses ────▶ plain_ip ─▶ acl, book
    events ───────▶ up ─▶ book
    requests ─────▶ inbox, request_of ─▶ recorder ─▶ lines

``tests/unit/test_fuzz.py`` calls them with inputs from hypothesis, ``scripts/fuzz`` with inputs that atheris
finds by watching which code is reached. Both can begin from `SEEDS`.
"""

import gzip
import io
import ipaddress
import json
import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import orjson

from mprelay.audit import lines, prove
from mprelay.audit.verify import CODES, Verifier
from mprelay.channel.up import EventReader, Queue, pack
from mprelay.config.cli import Refusal, Text, parse
from mprelay.config.host import UNKNOWN_HOST, Host
from mprelay.config.parameters import LABELS_LIMIT
from mprelay.config.validation import Config
from mprelay.core.acl import NO_ENTRY, Acl, Entry
from mprelay.core.admission import Outcome, Verdict
from mprelay.core.protocol import (
    PORTS_END,
    Announced,
    Closed,
    CloseReason,
    Connected,
    Crashed,
    Event,
    Measured,
    NotAnnounced,
    Progress,
    Ready,
    Trying,
)
from mprelay.core.requests import CHANGES, LINE_LIMIT, LOOKS, Inbox, NotRequest, Request, request_of
from mprelay.records import catalogue
from mprelay.seal.sealer import Sealer
from mprelay.supervisor.control import line_of
from mprelay.system import sockets
from mprelay.worker.proxy_header import HEADER_LIMIT, Header, NoHeader, make_v1, make_v2
from mprelay.worker.proxy_header import parse as parse_header
from support.kept import Kept

GOOD: Final = ("8080", "192.0.2.1", "80", "ANY")
CLIENT: Final = ("192.0.2.1", 56324)
FORMATS: Final = ("json", "text", "ecs", "ocsf", "gcp")
LISTENER: Final = ("198.51.100.7", 443)
LONGEST_IP: Final = "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"


def _check_lines(lines: list[bytes], count: int, labels: dict[str, str], log_format: str) -> None:
    """Each record is one line below the limit with the expected content, and no line is forged."""
    assert len(lines) == count, lines
    for seq, line in enumerate(lines, 1):
        assert len(line) < 4096, line
        text = line.decode()
        if log_format == "text":
            assert text.endswith("\n")
            assert not any(character < " " or "\x7f" <= character < "\xa0" for character in text[:-1]), text
            assert len(text.splitlines()) == 1, text
        else:
            assert text.count("\n") == 1, text
            record = json.loads(text)
            if log_format == "json":
                assert record["seq"] == seq
                assert record.get("labels", {}) == labels


def _no_file(path: str) -> bytes:
    raise AssertionError(path)


def argv(data: bytes) -> None:
    """Arguments, as the kernel passes them: any bytes but NUL, which ends each."""
    _answer(parse([os.fsdecode(part) for part in data.split(b"\0")]))


def config(data: bytes) -> None:
    """A configuration file of any bytes."""
    files = [data]  # it is read once: no file names itself
    host = Host(read_file=lambda path: files.pop() if path == "/f" and files else UNKNOWN_HOST.read_file(path))
    _answer(parse(["--config", "f"], host))


def _answer(asked: Config | Text | Refusal) -> None:
    """What the program understood makes records that are right."""
    if isinstance(asked, Text):
        asked.text.encode()
        assert asked.code in (0, 2)
        return
    if isinstance(asked, Config):
        assert 1 <= asked.fwd_port <= 65535
        assert str(ipaddress.ip_address(asked.trg_host)) == asked.trg_host
        rules, loaded = asked.acl
        assert loaded.acl == Acl.of(rules.entries(_no_file))
        labels = dict(asked.labels)
    else:
        assert isinstance(asked, Refusal)
        assert asked.problems
        labels = asked.labels
    for log_format in FORMATS:
        kept = Kept(log_format, labels=labels)
        if isinstance(asked, Config):
            facts = {"target_ip": asked.trg_host, "target_port": asked.trg_port, "acl": asked.acl[0].written}
            facts |= {"listen_ip": asked.bind or "::", "options": asked.options}
            kept.recorder.write(catalogue.RELAY_ACTIVE, 1.0, listen_port=asked.fwd_port, **facts)
        else:
            for problem in asked.problems:
                kept.recorder.refuse(problem.parameter, problem.value, problem.message, problem.problem)
        kept.recorder.flush()
        count = 1 if isinstance(asked, Config) else len(asked.problems)
        _check_lines(kept.lines, count, labels, log_format)


def labels(data: bytes) -> None:
    """Labels of any bytes are refused, or appear unchanged in every record, the largest one included."""
    texts = [os.fsdecode(part) for part in data.split(b"\0")]
    asked = parse([*GOOD, *(part for text in texts for part in ("--label", text))])
    if isinstance(asked, Refusal):
        return
    assert isinstance(asked, Config)
    assert asked.labels == dict(text.partition("=")[::2] for text in texts)
    assert len(json.dumps(asked.labels, ensure_ascii=False).encode()) <= LABELS_LIMIT
    _a_session("192.0.2.7", dict(asked.labels))


def acl(data: bytes) -> None:
    """A list and a client's address (its last 16 bytes): judged as by `ipaddress`, with IPv4 only as IPv4."""
    if len(data) < 16:
        return
    text, raw = os.fsdecode(data[:-16]), data[-16:]
    try:
        entries = [Entry.parse(item) for item in text.split(",")]
    except ValueError:
        return
    parsed = Acl.of(entries)
    v6, v4 = ipaddress.IPv6Address(raw), ipaddress.IPv4Address(raw[:4])
    assert parsed.decide(str(v4)) == parsed.decide(f"::ffff:{v4}")
    for client in (v4, v6.ipv4_mapped or v6):
        first = next((one for one in entries if one.network is None or client in one.network), None)
        expected = (False, NO_ENTRY) if first is None else (first.allows, first.written)
        assert parsed.decide(str(client)) == expected


def addresses(data: bytes) -> None:
    """A client's address as accept(2) gives it, with or without a zone. IPv4 never appears as ``::ffff:``."""
    raw, zone = data[:16].ljust(16, b"\0"), "%eth0" if data[16:] else ""
    seen = sockets.plain_ip(socket.inet_ntop(socket.AF_INET6, raw) + zone)
    v6 = ipaddress.IPv6Address(raw)
    assert ipaddress.ip_address(seen) == (v6.ipv4_mapped or v6)
    assert Acl.of([Entry.parse("0.0.0.0/0")]).decide(seen).allowed == (v6.ipv4_mapped is not None)
    _a_session(seen, {})


def events(data: bytes) -> None:
    """A worker's reports are events, or the worker is not believed any more. Nothing else may happen."""
    queue = Queue()
    try:
        os.write(queue.writer.fileno(), data[:65536])
        reader = EventReader(queue)
        found = []
        while (taken := reader.take()) is not None:
            found += taken
            if not taken:  # the rest of a frame that will never come
                break
        reader.close()
    finally:
        queue.close()
    assert all(isinstance(event, Event) for event in found)
    builds = [event.build for event in found if isinstance(event, Ready)]
    assert all(len(build) <= 64 and build.isprintable() for build in builds)
    for log_format in FORMATS:
        if log_format != "text":
            _record(found, log_format)


def _record(found: list[Event], log_format: str) -> None:
    """Record what a worker reported, each event of another session."""
    most = {"k": "x" * 1000}
    kept = Kept(log_format, limit=1, target=(LONGEST_IP, 65535), labels=most, tcp_info=True)
    kept.book.workers.open(64, 1000)
    count = 0
    for event in found:
        if isinstance(event, Announced | NotAnnounced):
            continue  # of connections that are no sessions
        session = kept.admit((LONGEST_IP, 65535), 1.0, 1.0)
        kept.book.workers.place(session, 1.0)
        count += 3
        match event:
            case Connected():
                count += 4
                assert kept.book.connected(64, event._replace(serial=session.serial), 1.0)
            case Trying():
                assert kept.book.trying(64, event._replace(serial=session.serial))
            case Progress():
                assert kept.book.progress(64, event._replace(serial=session.serial), 1.0)
            case Measured():
                assert kept.book.measured(64, event._replace(serial=session.serial))
            case Crashed():
                count += 1
                kept.recorder.unexpected(event.at, event.error, event.place, 64)
        if isinstance(event, Closed):
            kept.close(event._replace(serial=session.serial), event.reason or CloseReason.DRAINED)
        else:
            kept.book.lost(session, 1.0, 1.0, CloseReason.WORKER_LOST)
    kept.book.stopped("failed", 1.0)
    count += 1
    kept.recorder.flush()
    _check_lines(kept.lines, count, most, log_format)


def header(data: bytes) -> None:
    """A PROXY header, or none, or the beginning of one. Of its beginning nothing is ever taken back."""
    data = data[: 2 * HEADER_LIMIT]
    seen: Header | str | None = None
    for size in range(len(data) + 1):
        now: Header | str | None
        try:
            now = parse_header(data[:size])
        except NoHeader:
            now = "none"
        assert seen in {None, now}
        seen = now
        assert seen is not None or size < HEADER_LIMIT
        if isinstance(now, Header):
            assert 0 < now.size <= min(size, HEADER_LIMIT)
            for ip, port in filter(None, (now.client, now.reached)):
                ipaddress.ip_address(ip)
                assert 0 <= port < PORTS_END


def requests(data: bytes) -> None:
    """What a client of the control socket says, in pieces of a size (the first byte). Each line is judged."""
    asked: list[Request] = []
    refused: list[str] = []
    for line in _lines(data[1:], 1 + sum(data[:1])):
        try:
            asked.append(request_of(line))
        except NotRequest as wrong:
            refused.append(str(wrong))
    for why in refused:
        assert why.isprintable()
        assert len(line_of({"ok": False, "error": why})) < LINE_LIMIT
    for request in asked:
        assert request.command in LOOKS + CHANGES
        assert request.session is None or 0 < request.session < 2**63
        assert request.seconds is None or request.seconds > 0
        if request.client is not None:
            again = request_of(orjson.dumps({"command": "kill", "client": str(request.client)}))
            assert again.client == request.client
    for log_format in FORMATS:
        kept = Kept(log_format)
        for request in asked:
            whose = {"peer_uid": 2**32 - 1, "peer_pid": 2**22, "ok": True, "problem": None}
            arguments = request.arguments
            kept.recorder.write(catalogue.CONTROL_COMMAND, command=request.command, arguments=arguments, **whose)
        kept.recorder.flush()
        _check_lines(kept.lines, len(asked), {}, log_format)


def _lines(said: bytes, size: int) -> list[bytes]:
    """The lines of what a client has said, down to one that is too long."""
    inbox, found = Inbox(), []
    try:
        for at in range(0, len(said), size):
            inbox.add(said[at : at + size])
            while (line := inbox.take(ended=False)) is not None:
                found.append(line)
        while (line := inbox.take(ended=True)) is not None:
            found.append(line)
    except NotRequest:
        assert len(said.split(b"\n")[len(found)]) > LINE_LIMIT
    else:
        assert b"\n".join(found) == said.removesuffix(b"\n")
    assert not inbox
    assert all(len(line) <= LINE_LIMIT for line in found)
    return found


def _a_session(client_ip: str, labels: dict[str, str]) -> None:
    """All eight records of a session, and a rejection."""
    for log_format in FORMATS:
        kept = Kept(log_format, limit=1, target=(LONGEST_IP, 65535), labels=labels)
        session = kept.admit((client_ip, 65535), 1.0, 1.0)
        kept.book.workers.open(64, 1)
        kept.book.workers.place(session, 1.0)
        kept.book.allocated(session, 1.0)
        kept.book.connected(64, Connected(1, 1.0, 1.0, 65535), 1.0)
        for_reason = CloseReason.TARGET_CHANNEL_FAILED
        closed = Closed(
            1, 1.0, 1.0, for_reason, "EPROTONOSUPPORT", "client", "reset", "reset", LONGEST_IP, *COUNTS
        )
        kept.close(closed, for_reason)
        rejected = Verdict(Outcome.REJECTED, f"{LONGEST_IP}/128")
        kept.book.enter((client_ip, 65535), rejected, 1.0, 1.0)
        kept.recorder.flush()
        _check_lines(kept.lines, 10, labels, log_format)
        if log_format == "json":
            assert {record["client_ip"] for record in kept.records()} == {client_ip}


def _is_signed(_public_key: bytes, _signature: bytes, _text: bytes) -> bool:
    """Say of any signature that it is good, so that bytes get to what comes behind it."""
    return True


def log(data: bytes) -> None:
    """Check that any file gets a verdict, compressed or not."""
    verifier = Verifier(_is_signed)
    for piece in lines.pieces_of("log", io.BytesIO(data)):
        verifier.take(piece)
    verdict = verifier.end()
    assert verdict.verdict in CODES
    assert (verdict.verdict == "whole") <= bool(verdict.runs and not verdict.faults)
    assert all(0 <= run.sealed <= run.lines for run in verdict.runs)


def proof(data: bytes) -> None:
    """Check that any text is a proof of some lines, or none."""
    try:
        assert prove.judge(data, _is_signed).lines
    except prove.WrongProof as wrong:
        assert str(wrong)  # noqa: PT017 - that is what it is for


class _Signer:
    """A key that signs nothing."""

    public = bytes(32)

    def sign(self, _text: str) -> bytes:
        return bytes(64)


def _sealed() -> list[bytes]:
    """Return the lines of a small sealed log."""
    sealer, written = Sealer("0123456789abcdef", _Signer, None), list[bytes]()

    def line_of(event: str, fields: dict[str, Any]) -> bytes:
        head = {"timestamp": "2026-11-26T12:00:00.000000Z", "event": event, "seq": len(written) + 1}
        return orjson.dumps({**head, "relay_id": "0123456789abcdef", **fields}) + b"\n"

    def write(event: str, fields: dict[str, Any]) -> None:
        written.append(line_of(event, fields))
        sealer.add(written[-1:])

    write("log.key", sealer.renew())
    write("session.closed", {"session": 1})
    write("relay.stopped", {})
    write("log.checkpoint", sealer.checkpoint(partial(line_of, "log.checkpoint")))
    return written


def _proof(written: list[bytes]) -> bytes:
    """Return a proof of the session in such a log."""
    piece = lines.Block("log", 1, [line[:-1] for line in written])
    verifier = Verifier(_is_signed)
    verifier.take(piece)
    run = verifier.run_of("0123456789abcdef")
    assert run is not None
    assert run.sealed is not None
    prover = prove.Prover("0123456789abcdef", 1, run.sealed)
    prover.take(piece)
    return orjson.dumps(prover.end())


def _frame(frame: object) -> bytes:
    data = orjson.dumps(frame)
    return struct.pack("!i", len(data)) + data


WAYS: Final[dict[str, Callable[[bytes], None]]] = {
    "argv": argv,
    "config": config,
    "labels": labels,
    "acl": acl,
    "addresses": addresses,
    "events": events,
    "header": header,
    "log": log,
    "proof": proof,
    "requests": requests,
}
_SEALED: Final = _sealed()
REFUSED: Final = CloseReason.CONNECT_REFUSED
COUNTS: Final = (2**60 - 1, 2**60 - 1, 2**60 - 1, 2**60 - 1)
SEEDS: Final[dict[str, list[bytes]]] = {
    "argv": [
        b"\0".join(map(str.encode, (*GOOD, "3", "300", "0", "auto"))),
        b"\0".join(map(str.encode, (*GOOD, "--label", "a=b", "--workers=2", "--log-format", "text", "--", "x"))),
        b"\0".join(map(str.encode, (*GOOD, "3s", "30m", "2h", "--drain-timeout", "1.5m", "--stats-interval=1d"))),
        b"\0".join(map(str.encode, (*GOOD[:3], "10.0.0.1/0.0.0.255", "1h30m"))),
        b"--help",
        b"--version",
        b"-5\0--max-sessions\0--bind=::1\0--drain-timeout\0001.5\0--stats-interval=0\0--log-detail\0full",
    ],
    "config": [
        b'fwd_port = 8080\ntrg_host = "192.0.2.1"\ntrg_port = 80\nacl = [\n"ANY",\n"x"]\n[label]\na = "b"\n',
        b"\xef\xbb\xbfworkers = true\r\nidle_timout = 5\r\ndrain_timeout = inf\nexpires_at = 2026-12-01\n",
        b'label = ["a=\\u0000\\n", 5]\nlog_format = "text"\nmax_sessions = 0x'
        + b"f" * 30
        + b"\nbind = {a = [[[]]]}",
    ],
    "labels": [b"ticket=CHG-1\0owner=\xc3\xbc", b"a=\n\r\x1b[2J{message}\0\xff=\xff", b"k=" + b'"' * 500],
    "acl": [
        text + raw
        for text in (b"any", b"10.1.2.3/255.0.0.0", b"10.0.0.0/8", b"2001:db8::/32", b"::ffff:10.0.0.0/104")
        for raw in (bytes(10) + b"\xff\xff\x0a\x01\x02\x03", b"\x0a" * 16, b"\x20\x01\x0d\xb8" * 4)
    ],
    "addresses": [bytes(10) + b"\xff\xff\x7f\0\0\1", bytes(15) + b"\1", b"\xfe\x80" + bytes(13) + b"\1%eth0"],
    "events": [
        _frame(
            [pack(Ready(1.0, "0.1.0 75f37af9")), pack(Connected(1, 1.0, 1.0, 9)), pack(Progress(1, 2, 3, 3, 2))]
        ),
        _frame([pack(Closed(1, 1.0, 1.0, REFUSED, "ECONNREFUSED", "target", "end", None, None, 0, 0, 0, 0))]) * 2,
        _frame([pack(Closed(1, 1.0, 1.0, CloseReason.DRAINED, None, None, None, None, None, *COUNTS))]) * 9,
        _frame([pack(Measured(1, 0.025, None, 0, None)), pack(Measured(2, 1.5, 4294967.295, 7, 2**32 - 1))]),
        _frame([pack(Crashed(1.0, "place", "error"))]),
        _frame([pack(Crashed(1.0, "\x01" * 200, "\x01" * 200))]),
        _frame([pack(Ready(1.0, "\x1b[2J")), pack(Ready(1.0, "x" * 65)), pack(Ready(1.0, "é"))]),
        _frame([[]]) + b"\xff",
    ],
    "requests": [
        b'\x00{"command": "status"}\n\n{"command": "sessions"}\r\n{"command": "watch"}',
        b'\x07{"command": "kill", "session": 7}\n{"client": "::ffff:192.0.2.1", "command": "kill"}\n',
        b'\xff{"command": "kill", "client": "2001:db8::1/32"}\n{"command": "kill", "client": "192.0.2.9%lo"}\n',
        b'\x20{"command": "extend", "seconds": 1e2}\n{"command": "extend", "seconds": "\\u001b"}\nstatus\n',
        b'\x40{"command": "drain", "\xe2\x80\xae": [[[{}]]]}\n' + b"x" * LINE_LIMIT + b"\nx",
    ],
    "header": [
        make_v1(CLIENT, LISTENER),
        make_v2(CLIENT, LISTENER),
        make_v2(("2001:db8::1", 1), LISTENER) + b"data",
        b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\x07\x03\0\x04\0\0\0\0",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12" + bytes(12) + b"\x04\0\x03abc",
    ],
    "log": [
        b"".join(_SEALED),
        gzip.compress(b"".join(_SEALED[:1] * 2)) + bytes(9),
        b"".join(_SEALED[2:] + _SEALED),
    ],
    "proof": [_proof(_SEALED)],
}
