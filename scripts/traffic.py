"""Clients and a target that check every byte: the load under which ``scripts/chaos`` injects its faults.

``traffic.py target SEED HOST`` listens, prints its port, and serves. ``traffic.py clients SEED HOST PORT`` makes
sessions on commands from stdin: ``go COUNT``, ``rest`` (let all end, then say so), ``burst COUNT``. Both write a
line of JSON for each session that ended, and exit at the end of stdin.

``traffic.py probes SEED HOST PORT TARGET_HOST TARGET_PORT`` understands ``go COUNT`` and ``rest``. It only
measures how late answers are. A separate process answers it, to which the target passes the probes' sockets. One
probe goes past the relay, and its delays are this machine's.

The seed and a session's number determine what the session does. So both ends know it, and so does the judge. Each
session has a client address of its own, which identifies it in the relay's records.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

HEADER = struct.Struct("<8sQ")
MAGIC = b"mprelay\n"
NETS = {"127.0.0.1": 127, "192.0.2.1": 10}
"""By the relay's address: the first number of its clients' addresses."""

_BLOCK = 1 << 20
_CHUNK = 1 << 16
_ABORT = struct.pack("ii", 1, 0)
_PATIENCE = 100.0  # seconds until a session that has not ended counts as hung
_PROBE_INTERVAL = 0.01  # seconds
_STALL_LIMIT = 0.01  # seconds of delay that a probe reports at once
_PULSE_INTERVAL = 1.0  # seconds between two reports of the probes' latencies
_WORD_LIMIT = 30_000  # bytes of a last word, at most; a receive buffer holds as many
_FIRST_READ_LIMIT = 8_000_000  # bytes read before it, at most; by then the flow is spliced
_ENDLESS_SIZE = 1 << 30  # bytes that the other side would send in full
_FIRST_PROBE = 1 << 22  # the first session number of probes

NORMAL = ("exchange", "answer", "push", "slow")
"""Kinds of sessions that end normally on both sides, unless a fault hits them."""

EARLY = {"early_answer": "target", "last_word": "client"}
"""Kinds in which one side sends its data and closes with unread data, and which side that is."""


class Plan(NamedTuple):
    """What a session does."""

    kind: str
    up: int  # bytes from client to target, after the header
    down: int  # bytes from target to client
    cut: int  # bytes after which a side cuts it; of an early kind: bytes it reads first
    start: int  # where in the block its bytes begin


def plan(seed: str, number: int) -> Plan:
    """Return the plan of the session `number`."""
    dice = random.Random(f"{seed}/{number}")  # noqa: S311 - no secret

    def size() -> int:
        kind = dice.random()
        if kind < 0.15:  # noqa: PLR2004 - a share
            return 0
        most = 1 << 16 if kind < 0.75 else 1 << 21 if kind < 0.96 else 20_000_000  # noqa: PLR2004 - shares
        return int(most ** dice.random()) if most == 1 << 16 else dice.randrange(1 << 16, most)

    kinds = ("exchange", "answer", "push", "slow", "leave", "client_reset", "target_reset", *EARLY)
    kind = dice.choices(kinds, (36, 24, 14, 6, 8, 6, 6, 5, 5))[0]
    up, down = (dice.randrange(40), dice.randrange(40)) if kind == "slow" else (size(), size())
    if kind in EARLY:
        up, down = dice.randrange(1, _WORD_LIMIT), _ENDLESS_SIZE
        cut = dice.choice((0, dice.randrange(1 << 16), dice.randrange(_FIRST_READ_LIMIT)))
        if kind == "early_answer":
            up, down = down, up
    else:
        cut = dice.randrange(1 + (up if kind == "client_reset" else down))
    return Plan(kind, up, down, cut, dice.randrange(_BLOCK))


def allowed(relay: str) -> str:
    """Return the ACL that allows all clients but the strangers of a burst."""
    return f"{NETS[relay]}.0.0.0/9"


def address_of(relay: str, number: int) -> str:
    """Return the client address of a session; the ACL allows 8 million."""
    return f"{NETS[relay]}.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def _flow(seed: str) -> memoryview:
    block = random.Random(seed).randbytes(_BLOCK)  # noqa: S311 - no secret
    return memoryview(block + block)


class End:
    """One end of a session. It knows what it sent and received, and whether the bytes were right."""

    def __init__(self, sock: socket.socket, flow: memoryview, does: Plan) -> None:
        self.offered = 0  # bytes given to the kernel, and those of the call that failed
        self.received = 0
        self._sock = sock
        self._flow = flow
        self._start = does.start
        self._pause = 0.01 if does.kind == "slow" else 0.0  # seconds after each byte
        self._seen = hashlib.blake2b()
        self._loop = asyncio.get_running_loop()

    async def send(self, size: int) -> None:
        """Send the first `size` bytes of the flow."""
        sent, chunk = 0, 1 if self._pause else _CHUNK
        while sent < size:
            at = (self._start + sent) % _BLOCK
            part = self._flow[at : at + min(chunk, size - sent)]
            self.offered += len(part)
            await self._loop.sock_sendall(self._sock, part)
            sent += len(part)
            if self._pause:
                await asyncio.sleep(self._pause)

    async def receive(self, most: int | None = None) -> None:
        """Receive until the end, or at most `most` bytes."""
        left = _CHUNK * 4 if most is None else most
        while left:
            data = await self._loop.sock_recv(self._sock, min(left, _CHUNK * 4))
            if not data:
                return
            self._seen.update(data)
            self.received += len(data)
            if most is not None:
                left -= len(data)

    async def speak_and_leave(self, read: int, say: int) -> str:
        """Read `read` bytes, send `say` bytes, and leave with the rest unread, which causes a reset."""
        await self.receive(read)
        await self.send(say)
        readable = asyncio.Event()
        self._loop.add_reader(self._sock, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(self._sock)
        return "cut"

    async def pour(self, size: int) -> str:
        """Send until the other side is gone. Then receive everything it has sent."""
        how = ""
        with contextlib.suppress(ConnectionError):
            await self.send(size)
            self.finish()
        try:
            await self.receive()
        except ConnectionError:
            how = "reset"
        # If the failed call took the socket's error, recv(2) reports an end.
        return how or ("reset" if self.offered < size else "")

    def finish(self) -> None:
        """Send no more."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as failure:  # ENOTCONN: the connection was reset meanwhile
            raise ConnectionResetError from failure

    def figures(self) -> dict[str, Any]:
        """Return the figures that the judge needs of this end, after the session."""
        return {
            "offered": self.offered,
            "received": self.received,
            "right": self._right(),
            "ended": time.monotonic(),
        }

    def _right(self) -> bool:
        """Tell whether the received bytes are the first ones that the other end sends."""
        expected, done = hashlib.blake2b(), 0
        while done < self.received:
            at = (self._start + done) % _BLOCK
            part = self._flow[at : at + min(_BLOCK, self.received - done)]
            expected.update(part)
            done += len(part)
        return expected.digest() == self._seen.digest()

    def reset(self) -> None:
        """Make the coming close a reset."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)


def _keep_alive(sock: socket.socket) -> None:
    """Turn on keep-alives, because a reset that was lost comes again as the answer to one."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 60)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _start(work: Any, tasks: set[asyncio.Task[Any]]) -> None:  # noqa: ANN401 - a coroutine
    """Run a coroutine, and keep it in `tasks` until it is done."""
    tasks.add(task := asyncio.get_running_loop().create_task(work))
    task.add_done_callback(tasks.discard)


async def _both(*works: Any) -> None:  # noqa: ANN401 - coroutines
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work)


async def _send_all(end: End, size: int) -> None:
    await end.send(size)
    end.finish()


async def _how(work: Any) -> str:  # noqa: ANN401 - a coroutine
    """Run a coroutine, and return how it ended."""
    how = ""
    try:
        async with asyncio.timeout(_PATIENCE):
            how = str(await work or "end")
    except* ConnectionRefusedError:
        how = "refused"
    except* ConnectionError:
        how = "reset"
    except* TimeoutError:
        how = "hung"
    return how


def _tell(**line: Any) -> None:  # noqa: ANN401 - JSON
    print(json.dumps(line), flush=True)


# -- the target ----------------------------------------------------------------------------------------------


async def _serve_plan(asked: Plan, end: End) -> str:
    if asked.kind == "answer":
        await end.receive()
        await end.send(asked.down)
    elif asked.kind == "push":
        await _send_all(end, asked.down)
        await end.receive()
    elif asked.kind == "early_answer":
        return await end.speak_and_leave(asked.cut, asked.down)
    elif asked.kind == "last_word":
        return await end.pour(asked.down)
    elif asked.kind == "target_reset":
        await end.send(asked.cut)
        end.reset()
        return "cut"
    else:
        await _both(_send_all(end, asked.down), end.receive())
    return ""


async def _answer(conn: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with conn, contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(conn, 4096):
            await loop.sock_sendall(conn, data)


async def echo(inbox: str) -> None:
    """Answer on each socket that comes through the descriptor `inbox`, until its end of file."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    def take() -> None:
        data, descriptors, _flags, _address = socket.recv_fds(sock, 1, 1)
        if not data:
            loop.remove_reader(sock)
            over.set()
            return
        conn = socket.socket(fileno=descriptors[0])
        conn.setblocking(False)  # noqa: FBT003 - socket's signature
        _start(_answer(conn), tasks)

    with socket.socket(fileno=int(inbox)) as sock:
        loop.add_reader(sock, take)
        await over.wait()


async def _serve(conn: socket.socket, seed: str, flow: memoryview, echoes: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    _keep_alive(conn)
    with conn:
        header = b""
        with contextlib.suppress(ConnectionError):
            while len(header) < HEADER.size and (data := await loop.sock_recv(conn, HEADER.size - len(header))):
                header += data
        if len(header) < HEADER.size:
            return  # its client left, or was cut off, before the whole header
        magic, number = HEADER.unpack(header)
        if magic != MAGIC:
            _tell(n=number, how="wrong header", offered=0, received=0, right=False, ended=time.monotonic())
            return
        if number >= _FIRST_PROBE:
            socket.send_fds(echoes, [b"!"], [conn.fileno()])
            return
        asked = plan(seed, number)
        end = End(conn, flow, asked)
        how = await _how(_serve_plan(asked, end))
        _tell(n=number, how=how, **end.figures())


async def target(seed: str, host: str) -> None:
    """Serve until stdin ends. ``shut`` and ``open`` on stdin close the listener and open it again."""
    flow, loop = _flow(seed), asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    echoes, inbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, __file__, "echo", str(inbox.fileno())]
    answering = subprocess.Popen(command, pass_fds=[inbox.fileno()])  # noqa: ASYNC220 - nothing runs yet
    inbox.close()

    def listen(port: int) -> socket.socket:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen(4096)
        server.setblocking(False)  # noqa: FBT003 - socket's signature
        return server

    def accept(server: socket.socket) -> None:
        # Not loop.sock_accept: if it is cancelled in the turn in which a client comes, it accepts that client for
        # a future that is done already. That raises InvalidStateError, and the client is lost.
        with contextlib.suppress(BlockingIOError, ConnectionError):
            conn, _ = server.accept()
            conn.setblocking(False)  # noqa: FBT003 - socket's signature
            _start(_serve(conn, seed, flow, echoes), tasks)

    def open_door(port: int) -> socket.socket:
        server = listen(port)
        loop.add_reader(server, accept, server)
        return server

    server = open_door(0)
    port = server.getsockname()[1]
    _tell(port=port)
    async for command in _commands():
        if command == "shut":
            loop.remove_reader(server)
            server.close()
        elif command == "open":
            server = open_door(port)
            _tell(opened=True)
    echoes.close()
    answering.wait()


# -- the clients ---------------------------------------------------------------------------------------------


class Crowd:
    """Makes as many sessions at once as stdin says."""

    def __init__(self, seed: str, host: str, port: str) -> None:
        self._seed = seed
        self._host = host
        self._relay = (host, int(port))
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Task[None]] = set()
        self._going = 0  # changes when the running loops must stop

    async def obey(self) -> None:
        """Obey the commands from stdin."""
        async for command in _commands():
            word, _, count = command.partition(" ")
            if word == "rest":
                self._going += 1
                await asyncio.gather(*self._running)
                _tell(resting=True)
            else:
                self._going += word == "go"
                for work in getattr(self, word)(int(count)):
                    _start(work, self._running)

    async def _connect(self, sock: socket.socket, address: str) -> None:
        sock.setblocking(False)  # noqa: FBT003 - socket's signature
        _keep_alive(sock)
        sock.bind((address, 0))
        await self._loop.sock_connect(sock, self._relay)


class Clients(Crowd):
    """Clients that do what their sessions' plans say, and bursts of them."""

    def __init__(self, seed: str, host: str, port: str) -> None:
        super().__init__(seed, host, port)
        self._flow = _flow(seed)
        self._numbers = itertools.count(1)

    def go(self, count: int) -> Iterable[Any]:
        """Keep `count` sessions running, each followed by another."""
        return [self._one_after_another() for _ in range(count)]

    def burst(self, count: int) -> Iterable[Any]:
        """Make `count` connections at once, every second one from an address that the ACL refuses."""
        return [
            self._stranger(index) if index % 2 else self._session(next(self._numbers)) for index in range(count)
        ]

    async def _one_after_another(self) -> None:
        turn = self._going
        while turn == self._going:
            await self._session(next(self._numbers))
            await asyncio.sleep(0.1)

    async def _session(self, number: int) -> None:
        does = plan(self._seed, number)
        address, began = address_of(self._host, number), time.monotonic()
        with socket.socket() as sock:
            end = End(sock, self._flow, does)
            how = await _how(self._do(sock, address, number, does, end))
        _tell(n=number, how=how, **end.figures(), began=began)

    async def _do(self, sock: socket.socket, address: str, number: int, does: Plan, end: End) -> str:
        await self._connect(sock, address)
        await self._loop.sock_sendall(sock, HEADER.pack(MAGIC, number))
        if does.kind == "push":
            await end.receive()
            await end.send(does.up)
        elif does.kind == "leave":
            await end.receive(does.cut)
            return "cut"
        elif does.kind == "early_answer":
            return await end.pour(does.up)
        elif does.kind == "last_word":
            return await end.speak_and_leave(does.cut, does.up)
        elif does.kind == "client_reset":
            await end.send(does.cut)
            end.reset()
            return "cut"
        else:
            await _both(_send_all(end, does.up), end.receive())
        return ""

    async def _stranger(self, index: int) -> None:
        """Connect from an address that the ACL refuses: the connection ends at once, without a byte."""
        with socket.socket() as sock:

            async def knock() -> str:
                await self._connect(sock, f"{NETS[self._host]}.200.{index >> 8 & 255}.{index & 255}")
                return "answered" if await self._loop.sock_recv(sock, 1) else ""

            _tell(stranger=await _how(knock()))


class Probes(Crowd):
    """Sessions that send all the time, and report late answers."""

    def __init__(self, seed: str, host: str, port: str, target_host: str, target_port: str) -> None:
        super().__init__(seed, host, port)
        self._target = (target_host, int(target_port))
        self._numbers = itertools.count(_FIRST_PROBE)
        self._latencies: list[int] = []  # µs

    def go(self, count: int) -> Iterable[Any]:
        """Keep `count` probes running, and one past the relay."""
        return [self._pulse(), self._past_the_relay(), *(self._probe() for _ in range(count))]

    async def _probe(self) -> None:
        turn = self._going
        while turn == self._going:
            number = next(self._numbers)
            with socket.socket() as sock, contextlib.suppress(ConnectionError, TimeoutError):
                await self._connect(sock, address_of(self._host, number))
                await self._ask(sock, number, address_of(self._host, number), self._latencies)

    async def _past_the_relay(self) -> None:
        turn = self._going
        while turn == self._going:
            with socket.socket() as sock, contextlib.suppress(ConnectionError, TimeoutError):
                sock.setblocking(False)  # noqa: FBT003 - socket's signature
                await self._loop.sock_connect(sock, self._target)
                await self._ask(sock, _FIRST_PROBE, "", [])

    async def _ask(self, sock: socket.socket, number: int, name: str, latencies: list[int]) -> None:
        turn = self._going
        await self._loop.sock_sendall(sock, HEADER.pack(MAGIC, number))
        while turn == self._going:
            began = time.monotonic()
            await self._loop.sock_sendall(sock, b"?")
            if not await self._loop.sock_recv(sock, 1):
                break
            late = time.monotonic() - began
            latencies.append(int(late * 1e6))
            if late > _STALL_LIMIT:
                _tell(probe=name, began=began, late=late)
            began = time.monotonic()
            await asyncio.sleep(_PROBE_INTERVAL)
            if (late := time.monotonic() - began) > _PROBE_INTERVAL + _STALL_LIMIT:
                _tell(stood_still=late, began=began)  # this process, or the whole machine

    async def _pulse(self) -> None:
        """Report the measured latencies once in each interval."""
        turn = self._going
        while turn == self._going:
            await asyncio.sleep(_PULSE_INTERVAL)
            _tell(latencies=self._latencies, at=time.monotonic())
            self._latencies.clear()


async def _commands() -> Any:  # noqa: ANN401 - an asynchronous iterator of str
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().strip()


def _obeying(crowd: type[Crowd]) -> Callable[..., Any]:
    async def obey(*arguments: str) -> None:
        await crowd(*arguments).obey()

    return obey


def main(role: str, *arguments: str) -> None:
    """Be the target, the clients, the probes, or the process that answers probes."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    roles: dict[str, Any] = {
        "target": target,
        "echo": echo,
        "clients": _obeying(Clients),
        "probes": _obeying(Probes),
    }
    asyncio.run(roles[role](*arguments))
    os._exit(0)  # the kernel ends the remaining sessions


if __name__ == "__main__":
    main(*sys.argv[1:])
