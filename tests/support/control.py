"""Talks to the control socket of a relay, as an operator's program would, and runs mprelayctl."""

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any, Final, Self

from support.launching import PROGRAM
from support.waiting import PATIENCE

CTL: Final = str(Path(PROGRAM).with_name("mprelayctl"))


class Operator:
    """A connection to the control socket at `path`."""

    def __init__(self, path: Path, **options: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        for name, value in options.items():
            self.socket.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        try:
            self.socket.connect(str(path))  # this waits for room in the backlog
        except OSError:
            self.socket.close()
            raise
        self.socket.settimeout(PATIENCE)
        self._lines = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_how: object) -> None:
        self._lines.close()
        self.socket.close()

    def say(self, *requests: dict[str, Any] | bytes) -> None:
        """Send requests, or any bytes."""
        for request in requests:
            data = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
            self.socket.sendall(data)

    def hear(self) -> dict[str, Any] | None:
        """Return the next line; None: the relay has ended the connection."""
        line = self._lines.readline()
        if not line.endswith(b"\n"):
            return None
        heard = json.loads(line)
        assert isinstance(heard, dict)
        return heard

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Send a request and return its answer, without the lines before it."""
        return self.all(command, **arguments)[-1]

    def all(self, command: str, **arguments: object) -> list[dict[str, Any]]:
        """Send a request and return all lines of its answer."""
        self.say({"command": command, **arguments})
        lines = []
        while (line := self.hear()) is not None:
            lines.append(line)
            if "ok" in line:
                return lines
        raise AssertionError(f"no answer to {command}: {lines}")

    def has_ended(self) -> bool:
        """Whether the relay ends the connection, whatever it says before."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass  # it ended with something unread
        return True


def ask(path: Path, command: str, **arguments: object) -> dict[str, Any]:
    """Ask one thing on a connection of its own."""
    with Operator(path) as operator:
        return operator.ask(command, **arguments)


def ctl(path: Path | None, *words: str) -> subprocess.CompletedProcess[str]:
    """Run mprelayctl to its end."""
    env = {name: value for name, value in os.environ.items() if name != "MPRELAYCTL_CONTROL"}
    if path is not None:
        env["MPRELAYCTL_CONTROL"] = str(path)
    return subprocess.run(
        [CTL, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=env,
        timeout=PATIENCE,
        check=False,
    )
