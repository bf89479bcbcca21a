"""Third-party programs on both sides: nginx, curl, socat."""

import contextlib
import hashlib
import os
import pwd
import random
import socket
import subprocess
from pathlib import Path

import pytest
from support.peers import accept, free_port, listening, pattern, receive
from support.relay import Relay
from support.waiting import PATIENCE, eventually

LONG = 60  # seconds after which a transfer of a big file counts as hung
BIG = 100_000_000

CONFIG = """
daemon off; worker_processes 1; error_log stderr error; pid {home}/nginx.pid; {user}
events {{ worker_connections 1024; }}
http {{
    access_log off; client_max_body_size 0; sendfile on;
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024; listen [::1]:{port} backlog=1024;
        location /files/ {{ alias {files}/; }}
        location /stored/ {{ alias {home}/stored/; dav_methods PUT; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory) -> tuple[Path, str]:
    """A file of 100 MB without repetition, and its SHA-256."""
    path = tmp_path_factory.mktemp("big") / "big"
    source = random.Random(100)  # noqa: S311 - nothing is secret here
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(100):
            block = source.randbytes(BIG // 100)
            digest.update(block)
            file.write(block)
    return path, digest.hexdigest()


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Nginx:
    """A web server that serves `files` and stores uploads below /stored/."""

    def __init__(self, program: str, home: Path, files: Path) -> None:
        self.port = free_port()
        self.stored = home / "stored"
        self.stored.mkdir()
        user = f"user {pwd.getpwuid(os.getuid()).pw_name};" if os.geteuid() == 0 else ""
        self._config = home / "nginx.conf"
        self._config.write_text(CONFIG.format(home=home, files=files, port=self.port, user=user))
        self._command = [program, "-p", str(home), "-e", "stderr", "-c", str(self._config)]

    def __enter__(self):
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        eventually(self._answers, "nginx listens")
        return self

    def _answers(self) -> bool:
        assert self._process.poll() is None, "nginx has ended"
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port)).close()
            return True
        return False

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(PATIENCE)


@pytest.fixture
def nginx(tool, tmp_path, big):
    """A running nginx that serves the big file."""
    with Nginx(tool("nginx"), tmp_path, big[0].parent) as server:
        yield server


@pytest.fixture
def curl(tool):
    """Start curl without the user's own settings. Return the process, whose stdout is the answer."""
    program = tool("curl")

    def start(*arguments: str) -> subprocess.Popen:
        options = ["-q", "-sS", "--fail", "--globoff", "--noproxy", "*", "--max-time", str(LONG)]
        return subprocess.Popen(
            [program, *options, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


def output(process: subprocess.Popen) -> bytes:
    """Wait for a program that must succeed; return its output."""
    with process:
        out, err = process.communicate(timeout=LONG + PATIENCE)
    assert process.returncode == 0, err
    return out


# -- nginx and curl ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "buffer",
    [pytest.param("100", marks=pytest.mark.posix("a million calls: minutes under Wine")), "4000", "auto"],
)
def test_100_mb_down_and_up_at_once(nginx, curl, big, tmp_path, buffer):
    """A download and an upload run side by side. No bit changes, and no byte is missing in the record."""
    path, digest = big
    with Relay(("127.0.0.1", nginx.port), "--buffer", buffer) as relay:
        url = f"http://127.0.0.1:{relay.port}"
        down = curl("--output", str(tmp_path / "down"), f"{url}/files/big")
        up = curl("--header", "Expect:", "--upload-file", str(path), f"{url}/stored/up")
        output(down)
        output(up)
        relay.wait("session.closed", 2, error=None)
    assert digest == sha256(tmp_path / "down")
    assert digest == sha256(nginx.stored / "up")
    last = relay.records[-1]
    for side in ("bytes_from_client", "bytes_from_target"):
        assert BIG < last[side] < BIG + 10_000  # the rest is heads of requests and answers


def test_many_curls_at_once(nginx, curl, big):
    """Each curl gets its own part of the file, of its own size."""
    data = big[0].read_bytes()
    with Relay(("127.0.0.1", nginx.port)) as relay:
        url = f"http://127.0.0.1:{relay.port}/files/big"
        parts = [(number * 1_000_003, number * 1_000_003 + number * 5_000) for number in range(40)]
        curls = [curl("--range", f"{first}-{last}", url) for first, last in parts]
        for process, (first, last) in zip(curls, parts, strict=True):
            assert output(process) == data[first : last + 1]
        relay.wait("session.closed", 40, error=None)
        assert len({record["client_port"] for record in relay.all("session.closed")}) == 40


def test_keep_alive_requests_share_a_session(nginx, curl, big):
    head = big[0].read_bytes()[:2000]
    with Relay(("127.0.0.1", nginx.port)) as relay:
        urls = [f"http://127.0.0.1:{relay.port}/files/big"] * 20
        assert output(curl("--range", "0-1999", *urls)) == head * 20
        relay.wait("session.closed", error=None)
    assert relay.records[-1]["admitted"] == 1


@pytest.mark.parametrize(
    ("listen_at", "target"), [("[::1]", "::1"), ("[::1]", "127.0.0.1"), ("127.0.0.1", "::1")]
)
def test_ipv6_on_either_side(nginx, curl, big, listen_at, target):
    """The relay is reached over IPv6, the target is reached over IPv6, or both."""
    with Relay((target, nginx.port), acl="ANY") as relay:
        data = output(curl("--range", "0-999999", f"http://{listen_at}:{relay.port}/files/big"))
        with big[0].open("rb") as file:
            assert file.read(1_000_000) == data
        closed = relay.wait("session.closed", error=None)
        assert (listen_at.strip("[]"), target) == (closed["client_ip"], closed["target_ip"])


# -- socat ---------------------------------------------------------------------------------------------------


def socat(program: str, *addresses: str) -> subprocess.Popen:
    """Start socat, verbose and with a long wait for the other direction after one has ended."""
    return subprocess.Popen(
        [program, "-d", "-d", "-d", "-t", str(LONG), *addresses],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(process: subprocess.Popen, text: bytes) -> None:
    """Wait until socat has logged `text`."""
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"socat ended without logging {text!r}")


def test_socat_asks_and_half_closes(tool):
    """A third-party client ends its request. The answer comes after that."""
    question, answer = pattern(700_000), pattern(900_000, seed=2)
    with listening() as server, Relay(server.getsockname()) as relay:
        client = socat(tool("socat"), "-", f"TCP4:127.0.0.1:{relay.port}")
        client.stdin.write(question)
        client.stdin.close()
        client.stdin = None
        with accept(server) as target:
            assert receive(target) == question
            target.sendall(answer)
        assert output(client) == answer
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("requester_read_closed", None)
        assert (closed["bytes_from_client"], closed["bytes_from_target"]) == (700_000, 900_000)


def test_socat_answers_after_a_half_close(tool):
    """A third-party target (sha256sum behind socat) can only answer after the request has ended."""
    question, port = pattern(700_000), free_port()
    target = socat(tool("socat"), f"TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr", "EXEC:sha256sum")
    with target:
        wait_for(target, b"listening on")
        with Relay(("127.0.0.1", port)) as relay:
            with relay.connect() as client:
                client.sendall(question)
                client.shutdown(socket.SHUT_WR)
                assert hashlib.sha256(question).hexdigest().encode() == receive(client).split()[0]
            assert relay.wait("session.closed", error=None)["reason"] == "requester_read_closed"
        output(target)


def test_socat_on_both_sides_and_the_target_ends_first(tool):
    """The target sends everything and ends. Only after that has arrived does the client begin to send."""
    greeting, upload, port = pattern(300_000), pattern(800_000, seed=2), free_port()
    program = tool("socat")
    target = socat(program, "-", f"TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr")
    with target:
        wait_for(target, b"listening on")
        with Relay(("127.0.0.1", port)) as relay:
            client = socat(program, "-", f"TCP4:127.0.0.1:{relay.port}")
            with client:
                target.stdin.write(greeting)
                target.stdin.close()
                target.stdin = None
                assert client.stdout.read(len(greeting)) == greeting
                wait_for(client, b"is at EOF")
                client.stdin.write(upload)
                client.stdin.close()
                client.stdin = None
                assert output(target) == upload
                assert output(client) == b""
            closed = relay.wait("session.closed")
            assert (closed["reason"], closed["error"]) == ("target_read_closed", None)
            assert (closed["bytes_from_client"], closed["bytes_from_target"]) == (800_000, 300_000)
