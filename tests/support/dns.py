"""A DNS server for one name, whose answers a test can change at any time, and a system that asks no other."""

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, A, DNSRecord

from support.launching import PROGRAM

NAME: Final = "db.example"

_DATA: Final = {"A": A, "AAAA": AAAA}
_ASKING: Final = 'mount --bind "$0/resolv.conf" /etc/resolv.conf; mount --bind "$0/hosts" /etc/hosts; exec "$@"'


class DnsServer:
    """Answers what `answers` says of each type of question: addresses, the name of a response code, or nothing.

    All values count from the next question on.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[str] | str | None] = {"A": [], "AAAA": []}
        self.owner = NAME
        """Whose addresses they are."""
        self.alias_of: str | None = None
        """What the name is an alias of."""
        self.delay = 0.0
        """Seconds before each answer."""
        self.asked: list[tuple[float, str]] = []
        """The moment (monotonic) and the type of each question."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def answer(self, a: list[str] | str | None, aaaa: list[str] | str | None = "same") -> None:
        """Give other answers from now on: a response code is that of both types."""
        other: list[str] | str | None = [] if isinstance(a, list) else a
        self.answers = {"A": a, "AAAA": other if aaaa == "same" else aaaa}

    def wait(self, count: int, patience: float) -> None:
        """Wait until so many more questions have come."""
        with self._news:
            there = len(self.asked) + count
            assert self._news.wait_for(lambda: len(self.asked) >= there, patience), self.asked[-5:]

    def _serve(self) -> None:
        while True:
            packet, client = self._socket.recvfrom(4096)
            if not packet:
                return
            question = DNSRecord.parse(packet)
            kind = QTYPE[question.q.qtype]
            with self._news:
                self.asked.append((time.monotonic(), kind))
                self._news.notify_all()
            found = self.answers.get(kind)
            if found is None or str(question.q.qname).rstrip(".") != NAME:
                continue
            reply = question.reply()
            if isinstance(found, str):
                reply.header.rcode = getattr(RCODE, found)
            else:
                if self.alias_of is not None:
                    reply.add_answer(RR(NAME, QTYPE.CNAME, rdata=CNAME(self.alias_of), ttl=0))
                for address in found:
                    data = _DATA[kind](address)
                    reply.add_answer(RR(self.owner, question.q.qtype, rdata=data, ttl=0))
            timer = threading.Timer(self.delay, self._send, (reply.pack(), client))
            timer.daemon = True
            timer.start()

    def _send(self, packet: bytes, client: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):  # the test is over
            self._socket.sendto(packet, client)

    def close(self) -> None:
        """End the server."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def asking(self, directory: Path, hosts: str = "", domain: str = ".") -> tuple[str, ...]:
        """The words that start the program in a system that asks this server, with this hosts file and domain.

        That is a mount namespace of its own.
        """
        (directory / "resolv.conf").write_text(f"nameserver 127.0.0.1:{self.port}\nsearch {domain}\n")
        (directory / "hosts").write_text(hosts)
        return (*_in_a_namespace(directory), PROGRAM)


def _in_a_namespace(directory: Path) -> tuple[str, ...]:
    """The words that run a command in a mount namespace with these two files."""
    root = () if os.geteuid() == 0 else ("--map-root-user",)
    return ("unshare", "--mount", *root, "sh", "-ec", _ASKING, str(directory))


def why_not_here() -> str | None:
    """Why no such system can be had here; None: it can."""
    tried = subprocess.run([*_in_a_namespace(Path("/etc")), "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or None


@contextlib.contextmanager
def dns_server() -> Iterator[DnsServer]:
    """A server until the end of the block."""
    server = DnsServer()
    try:
        yield server
    finally:
        server.close()
