"""The control socket, seen from an operator: one request, its answer, and lines in between."""

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, Self

import orjson

ANSWER_TIME: Final = 10.0
"""Seconds for the relay to say something, unless what was asked for takes longer."""

_PART: Final = 64 * 1024  # bytes of one read
_TIMEVAL: Final = struct.Struct("@ll")
_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)  # SIGPIPE has its default action in this program
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class NoRelay(Exception):  # noqa: N818 - it says what is the matter
    """No relay is there, or it says nothing."""


class Closed(NoRelay):
    """The relay has closed the connection: it has ended, or has waited too long for a request."""


class Denied(Exception):  # noqa: N818
    """This user may not ask the relay."""


class Refused(Exception):  # noqa: N818
    """The relay has refused what was asked for. `answer` is what it said."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer.get("error", "no reason was given"))
        self.answer = answer


class Client:
    """A connection to the relay whose control socket is at `path`. Raises NoRelay, or Denied."""

    def __init__(self, path: str) -> None:
        family = getattr(socket, "AF_UNIX", None)
        if family is None:
            raise NoRelay("there are no control sockets on this system")
        self._path = path
        self._part = bytearray()
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        # Not by settimeout: then connect(2) would not wait for room in the backlog, but fail (unix(7)).
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(ANSWER_TIME), 0))
        try:
            self._socket.connect(path)
        except OSError as failure:
            self._socket.close()
            if isinstance(failure, PermissionError):
                raise Denied(f"{path}: {failure.strerror}") from failure
            if isinstance(failure, BlockingIOError):
                raise NoRelay(f"the relay at {path} does not answer") from failure
            raise NoRelay(f"no relay is at {path}: {failure.strerror or failure}") from failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_how: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the relay."""
        self._socket.close()

    @property
    def relay_pid(self) -> int | None:
        """The pid of who called listen(2), in this process's pid namespace. None: it cannot be seen from here."""
        option = getattr(socket, "SO_PEERCRED", None)
        if option is None:
            return None
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(credentials)[0]
        return pid or None

    def hang_up(self) -> None:
        """End the connection. A thread that waits for an answer has :class:`Closed` raised."""
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def ask(self, command: str, patience: float | None = ANSWER_TIME, **arguments: object) -> dict[str, Any]:
        """Return the last line of the answer. Raises Refused, and NoRelay after `patience` seconds of silence."""
        *_, answer = self.lines(command, patience, **arguments)
        return answer

    def lines(
        self, command: str, patience: float | None = ANSWER_TIME, **arguments: object
    ) -> Iterator[dict[str, Any]]:
        """Yield each line of the answer, down to the one that has `ok`. Raises as :meth:`ask` does."""
        self._socket.settimeout(patience)
        with suppress(OSError):  # it has closed the connection, perhaps with a word
            self._socket.sendall(orjson.dumps({"command": command, **arguments}) + b"\n", _NO_SIGNAL)
        while (line := self._line()) is not None:
            answer = self._understand(line)
            if answer.get("ok") is False:
                raise Refused(answer)
            yield answer
            if "ok" in answer:
                return
        raise Closed(f"the relay at {self._path} has closed the connection")

    def records(self) -> Iterator[bytes]:
        """Yield records as they are written, each a line. Raises Refused: the relay has cut this client off."""
        self.ask("watch")
        self._socket.settimeout(None)
        while (line := self._line()) is not None:
            if line.startswith(b'{"ok":false'):
                raise Refused(orjson.loads(line))
            yield line

    def _understand(self, line: bytes) -> dict[str, Any]:
        """Return a line's object. Raises NoRelay: no relay says that."""
        try:
            said = orjson.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise NoRelay(f"what answers at {self._path} is no relay")
        return said

    def _line(self) -> bytes | None:
        """Return the next line; None at the end. A line that is not whole is none."""
        while b"\n" not in self._part:
            try:
                data = self._socket.recv(_PART)
            except TimeoutError:
                raise NoRelay(f"the relay at {self._path} does not answer") from None
            except OSError:
                data = b""
            if not data:
                return None
            self._part += data
        line, _, self._part = self._part.partition(b"\n")
        return bytes(line)
