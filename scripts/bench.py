"""Measures mprelay beside HAProxy, nginx's stream module, rinetd, socat, and no relay at all.

    scripts/bench [--quick] [--rounds N] [--seconds S] [--only NAME ...] [--json FILE] [--svg FILE]

Each round measures every relay once, one after the other. The table shows the median of the rounds. The load
comes from wrk and iperf3, the answers from nginx and iperf3, all on loopback. Relays that are not installed are
left out. A relay whose run had errors is not compared. Needs Debian's packages wrk, iperf3 and nginx, and for
the peers haproxy, libnginx-mod-stream, rinetd and socat.

Each relay writes one line of JSON for each session to a pipe that is read (rinetd writes its own log, socat
none). Every relay may use all CPUs, which it shares with load and target.

Beside bulk: 50 clients download without end, and 1 or 10 others make small requests on open connections, all
from one nginx through one relay with one worker (HAProxy: one thread). The latency of a small request shows how
long the relay works for the 50 flows before it is the request's turn. nginx sends 64 KiB of a flow at a time,
and has one worker too. `none` shows how long a request waits in nginx itself.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import select
import shutil
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
from rich.console import Console
from rich.table import Table

HOST = "127.0.0.1"
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
CPUS = len(os.sched_getaffinity(0))
HTTP_PORT, BULK_PORT, RELAY_PORT = 18080, 18081, 18090
IDLE = 500
FLOWS = 50
BULK_PATH, BULK_SIZE = "/bulk", 64 * 2**20

# What is measured: name, unit, and whether more is better (None: no ratio is shown).
COLUMNS: dict[str, tuple[str, str, bool | None]] = {
    "connections": ("new connections", "/s", True),
    "connection_cpu": ("CPU per connection", "µs", False),
    "requests": ("requests, 100 clients", "/s", True),
    "request_cpu": ("CPU per request", "µs", False),
    "p50_1": ("p50, 1 client", "ms", False),
    "p99_1": ("p99, 1 client", "ms", False),
    "p50_100": ("p50, 100 clients", "ms", False),
    "p99_100": ("p99, 100 clients", "ms", False),
    "bulk_1": ("bulk, 1 stream", "Gbit/s", True),
    "bulk_1_cpu": ("CPU per GiB, 1 stream", "s", False),
    "bulk_8": ("bulk, 8 streams", "Gbit/s", True),
    "bulk_8_cpu": ("CPU per GiB, 8 streams", "s", False),
    "p50_bulk_1": (f"p50, 1 client beside {FLOWS} bulk flows", "ms", False),
    "p99_bulk_1": (f"p99, 1 client beside {FLOWS} bulk flows", "ms", False),
    "max_bulk_1": (f"max, 1 client beside {FLOWS} bulk flows", "ms", False),
    "p50_bulk_10": (f"p50, 10 clients beside {FLOWS} bulk flows", "ms", False),
    "p99_bulk_10": (f"p99, 10 clients beside {FLOWS} bulk flows", "ms", False),
    "max_bulk_10": (f"max, 10 clients beside {FLOWS} bulk flows", "ms", False),
    "bulk_beside": (f"{FLOWS} bulk flows beside 10 clients", "Gbit/s", True),
    "rss": ("RSS at rest", "MiB", False),
    "rss_500": ("RSS with 500 idle sessions", "MiB", False),
    "rss_session": ("RSS per idle session", "KiB", False),
    "wakeups": ("wake-ups, 500 idle", "/s", None),
    "cpu_500_10": ("CPU per request, 500 open : 10", "", None),
    "start": ("start", "s", False),
}


Command = Callable[[Path, int, int], list[str]]
"""Returns a relay's command, given a folder for its files, the target's port, and its workers or threads."""


class Errors(Exception):  # noqa: N818 - what a run had
    """A run had errors, so its figures mean nothing."""


def program(name: str) -> str | None:
    """Find a program, also in the directories for administrators."""
    return shutil.which(name, path=PATH)


def wait_for_port(port: int) -> None:
    """Wait until a process listens on `port`, without connecting: iperf3 would take that for a client."""
    deadline = time.monotonic() + 10
    while not any(
        line.status == psutil.CONN_LISTEN and line.laddr and line.laddr.port == port
        for line in psutil.net_connections("tcp4")
    ):
        if time.monotonic() > deadline:
            raise Errors(f"nobody listens on port {port}")
        time.sleep(0.01)


class Running:
    """A process tree: its CPU seconds (those of ended children included), RSS and wake-ups.

    What it writes to stdout goes through a pipe to the file `output`.
    """

    def __init__(self, command: list[str], folder: Path, output: Path = Path(os.devnull)) -> None:
        with output.open("wb") as file:
            self._sink = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=file)
        self.errors = (folder / "stderr").open("wb")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._sink.stdin, stderr=self.errors, cwd=folder
        )
        if self._sink.stdin is not None:
            self._sink.stdin.close()
        self._root = psutil.Process(self.process.pid)

    def tree(self) -> list[psutil.Process]:
        """Return all its processes."""
        return [self._root, *self._root.children(recursive=True)]

    def cpu(self) -> float:
        """Return its CPU seconds so far, user and system."""
        total = 0.0
        for process in self.tree():
            # The clock that clock_getcpuclockid(3) names. It is exact; /proc/PID/stat has hundredths of a second.
            with contextlib.suppress(OSError):
                total += time.clock_gettime(~process.pid << 3 | 2)
        ended = self._root.cpu_times()
        return total + ended.children_user + ended.children_system

    def rss(self) -> float:
        """Return the RSS of all processes, in bytes."""
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):  # socat's children come and go
                total += process.memory_info().rss
        return total

    def wakeups(self) -> int:
        """Count the voluntary context switches of all threads so far."""
        total = 0
        for process in self.tree():
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                status = (task / "status").read_text()
                total += int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)[0])
        return total

    def stop(self) -> None:
        """End all its processes."""
        family = self.tree()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        for process in psutil.wait_procs(family, timeout=1)[1]:
            process.kill()
        self.process.wait()
        self._sink.wait()
        self.errors.close()


def haproxy(folder: Path, target: int, workers: int) -> list[str]:
    """HAProxy, `mode tcp`, with its own choice of when to splice, one JSON line a session."""
    line = (
        '{"client_ip":"%ci","client_port":%cp,"session":%rt,"target_ip":"%si","target_port":%sp,'
        '"bytes_from_client":%U,"bytes_from_target":%B,"connect_ms":%Tc,"duration_ms":%Tt,"reason":"%ts"}'
    )
    (folder / "haproxy.cfg").write_text(
        f"""
global
    log stdout format raw local0 info
    nbthread {workers}
    maxconn 4000
defaults
    mode tcp
    option splice-auto
    option dontlognull
    timeout connect 3s
    timeout client 300s
    timeout server 300s
listen relay
    bind {HOST}:{RELAY_PORT} backlog 4096
    log global
    log-format '{line}'
    server target {HOST}:{target}
"""
    )
    return [str(program("haproxy")), "-db", "-f", "haproxy.cfg"]


NGINX = """
daemon off;
worker_processes {workers};
error_log stderr crit;
pid {folder}/nginx.pid;
events {{ worker_connections 4000; }}
"""


def nginx_stream(folder: Path, target: int, workers: int) -> list[str]:
    """Nginx's stream module, one JSON line a session."""
    line = (
        '{"client_ip":"$remote_addr","client_port":$remote_port,"session":$connection,"target":"$upstream_addr",'
        '"bytes_from_client":$bytes_received,"bytes_from_target":$bytes_sent,"duration_s":$session_time}'
    )
    modules = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    load = f"load_module {modules};\n" if modules.exists() else ""
    (folder / "nginx.conf").write_text(
        load
        + NGINX.format(workers=workers, folder=folder)
        + f"""
stream {{
    log_format json '{line}';
    access_log /dev/stdout json;
    server {{
        listen {HOST}:{RELAY_PORT} backlog=4096 reuseport;
        proxy_pass {HOST}:{target};
        proxy_timeout 300s;
        tcp_nodelay on;
    }}
}}
"""
    )
    return [str(program("nginx")), "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]


def rinetd(folder: Path, target: int, _workers: int) -> list[str]:
    """Rinetd with its own log; one process."""
    (folder / "rinetd.conf").write_text(
        f"{HOST} {RELAY_PORT} {HOST} {target}\nlogfile {folder}/rinetd.log\nlogcommon\n"
        f"pidlogfile {folder}/rinetd.pid\n"
    )
    return [str(program("rinetd")), "-f", "-c", str(folder / "rinetd.conf")]


def socat(_folder: Path, target: int, _workers: int) -> list[str]:
    """Socat, a process a connection, no log."""
    listen = f"TCP4-LISTEN:{RELAY_PORT},bind={HOST},fork,reuseaddr,nodelay,backlog=4096"
    return [str(program("socat")), "-b", "262144", listen, f"TCP4:{HOST}:{target},nodelay"]


def mprelay(detail: str) -> Command:
    """Make the command of mprelay with this `--log-detail`."""

    def command(_folder: Path, target: int, workers: int) -> list[str]:
        relay = [
            str(Path(sys.executable).with_name("mprelay")),
            str(RELAY_PORT),
            HOST,
            str(target),
            "127.0.0.0/8",
        ]
        relay += ["--bind", HOST, "--workers", str(workers), "--max-sessions", "2000", "--stats-interval", "0"]
        return [*relay, "--log-format", "json", "--log-detail", detail]

    return command


def has_stream(name: str) -> bool:
    """Tell whether nginx is installed with its stream module."""
    return bool(program(name)) and Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists()


RELAYS: dict[str, tuple[Callable[[], object], Command | None]] = {
    "none": (lambda: True, None),
    "haproxy": (lambda: program("haproxy"), haproxy),
    "nginx": (lambda: has_stream("nginx"), nginx_stream),
    "rinetd": (lambda: program("rinetd"), rinetd),
    "socat": (lambda: program("socat"), socat),
    "mprelay session": (lambda: True, mprelay("session")),
    "mprelay full": (lambda: True, mprelay("full")),
}


@contextlib.contextmanager
def running(name: str, target: int, workers: int = CPUS) -> Iterator[Running | None]:
    """Run a relay to the port `target` with so many workers or threads; None: no relay."""
    command = RELAYS[name][1]
    if command is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        relay = Running(command(Path(folder), target, workers), Path(folder))
        try:
            wait_for_port(RELAY_PORT)
            yield relay
        finally:
            relay.stop()


def wrk(port: int, clients: int, seconds: int, *, close: bool = False, patience: int = 2) -> dict[str, float]:
    """Run wrk; return requests, requests/s and latencies (p50, p99, max) in ms. Raises Errors.

    A request that takes longer than `patience` seconds is an error.
    """
    threads = "2" if clients > 1 else "1"
    command = [str(program("wrk")), "-t", threads, "-c", str(clients), "-d", f"{seconds}s", "--latency"]
    command += ["--timeout", f"{patience}s"]
    if close:
        command += ["-H", "Connection: close"]
    text = subprocess.run([*command, f"http://{HOST}:{port}/"], capture_output=True, text=True, check=True).stdout
    if "Socket errors" in text or "Non-2xx" in text:
        raise Errors(" ".join(re.findall(r"(?:Socket errors|Non-2xx).*", text)))
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    found = {
        f"p{p}": float(v) * unit[u]
        for p, v, u in re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)$", text, re.MULTILINE)
    }
    value, unit_of_it = re.findall(r"^\s+Latency(?:\s+\S+){2}\s+([\d.]+)(us|ms|s)\s", text, re.MULTILINE)[0]
    found["max"] = float(value) * unit[unit_of_it]
    requests, took = re.findall(r"(\d+) requests in ([\d.]+)s", text)[0]
    return {**found, "count": float(requests), "rate": float(requests) / float(took)}


def iperf(port: int, streams: int, seconds: int) -> tuple[float, float]:
    """Run iperf3; return Gbit/s and GiB received. Raises Errors."""
    command = [
        str(program("iperf3")),
        "-c",
        HOST,
        "-p",
        str(port),
        "-t",
        f"{seconds:g}",
        "-P",
        str(streams),
        "-J",
    ]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    if "error" in result:
        raise Errors(result["error"])
    received = result["end"]["sum_received"]
    return received["bits_per_second"] / 1e9, received["bytes"] / 2**30


class Bulk:
    """Clients that download through `port` without end, in a thread. `size` counts the bytes."""

    def __init__(self, port: int) -> None:
        self._clients = [socket.create_connection((HOST, port)) for _ in range(FLOWS)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.size = 0
        self.failed = False

    def __enter__(self) -> Self:
        # Pipelined requests for 12 GiB by each client, more than a run can take.
        for client in self._clients:
            client.sendall(f"GET {BULK_PATH} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode() * 200)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for client in self._clients:
            client.close()
        if self.failed:
            raise Errors("a bulk flow ended")

    def _run(self) -> None:
        clients = {client.fileno(): client for client in self._clients}
        nowhere = bytearray(2**20)
        with select.epoll() as poll:
            for descriptor in clients:
                poll.register(descriptor, select.EPOLLIN)
            while not self._over.is_set() and not self.failed:
                for descriptor, _ in poll.poll(0.1):
                    # The kernel throws the bytes away (tcp(7), MSG_TRUNC), so that their cost here is not
                    # measured.
                    try:
                        size = clients[descriptor].recv_into(nowhere, 0, socket.MSG_TRUNC)
                    except ConnectionError:
                        size = 0
                    self.size += size
                    self.failed = self.failed or not size


def beside_bulk(name: str, seconds: int) -> dict[str, float]:
    """Measure small requests while bulk flows keep the one worker of a relay busy. Raises Errors."""
    figures: dict[str, float] = {}
    with running(name, HTTP_PORT, workers=1) as relay:
        port = RELAY_PORT if relay else HTTP_PORT
        with Bulk(port) as bulk:
            wrk(port, 10, 1, patience=10)  # warm
            for clients in (1, 10):
                before, begun = bulk.size, time.monotonic()
                result = wrk(port, clients, seconds, patience=10)
                rate = (bulk.size - before) * 8 / (time.monotonic() - begun) / 1e9
                for figure in ("p50", "p99", "max"):
                    figures[f"{figure}_bulk_{clients}"] = result[figure]
            figures["bulk_beside"] = rate
    return figures


def measure(name: str, seconds: int, *, quick: bool) -> dict[str, float]:
    """Measure one relay once. Raises Errors."""
    figures: dict[str, float] = {}
    with running(name, HTTP_PORT) as relay:
        port = RELAY_PORT if relay else HTTP_PORT
        cpu = relay.cpu if relay else lambda: 0.0
        wrk(port, 10, 1)  # warm
        if relay:
            figures["rss"] = relay.rss() / 2**20
        before = cpu()
        result = wrk(port, 50, seconds, close=True)
        figures["connections"] = result["rate"]
        figures["connection_cpu"] = (cpu() - before) / result["count"] * 1e6
        before = cpu()
        result = wrk(port, 100, seconds)
        figures["requests"] = result["rate"]
        figures["request_cpu"] = (cpu() - before) / result["count"] * 1e6
        figures["p50_100"], figures["p99_100"] = result["p50"], result["p99"]
        result = wrk(port, 1, seconds)
        figures["p50_1"], figures["p99_1"] = result["p50"], result["p99"]
        if relay and not quick and name != "socat":
            before = cpu()
            alone = wrk(port, 10, seconds)["count"]
            alone_cpu = (cpu() - before) / alone
            rest = relay.rss()
            with contextlib.ExitStack() as stack:
                for _ in range(IDLE - 10):
                    stack.enter_context(socket.create_connection((HOST, port)))
                time.sleep(1.5)  # reports of bytes moved in the last second are still to come
                crowd = relay.rss()
                figures["rss_500"] = crowd / 2**20
                figures["rss_session"] = (crowd - rest) / (IDLE - 10) / 1024
                switches = relay.wakeups()
                time.sleep(3)
                figures["wakeups"] = (relay.wakeups() - switches) / 3
                before = cpu()
                crowded = wrk(port, 10, seconds)["count"]
                figures["cpu_500_10"] = (cpu() - before) / crowded / alone_cpu if alone_cpu else 0.0
    figures |= beside_bulk(name, seconds)
    with bulk_target(), running(name, BULK_PORT) as relay:
        port = RELAY_PORT if relay else BULK_PORT
        cpu = relay.cpu if relay else lambda: 0.0
        for streams in (1, 8):
            before = cpu()
            rate, size = iperf(port, streams, seconds)
            figures[f"bulk_{streams}"] = rate
            figures[f"bulk_{streams}_cpu"] = (cpu() - before) / size
    if name.startswith("mprelay"):
        figures["start"] = start_time(mprelay("session")(Path(), HTTP_PORT, CPUS))
    if name == "none":
        figures = {key: value for key, value in figures.items() if not key.endswith("_cpu")}
    return figures


def start_time(command: list[str]) -> float:
    """Return the seconds from the start of mprelay to its relay.active record."""
    begun = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        for line in process.stdout or ():
            if b'"relay.active"' in line:
                took = time.monotonic() - begun
                process.terminate()
    return took


@contextlib.contextmanager
def bulk_target() -> Iterator[None]:
    """Run the target of bulk data, a fresh one for each relay."""
    with tempfile.TemporaryDirectory() as name:
        target = Running([str(program("iperf3")), "-s", "-B", HOST, "-p", str(BULK_PORT)], Path(name))
        try:
            wait_for_port(BULK_PORT)
            yield
        finally:
            target.stop()


@contextlib.contextmanager
def web_target() -> Iterator[None]:
    """Run the target of requests, small and large. The large file is sparse, so it takes no disk space."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (folder / BULK_PATH[1:]).open("wb") as file:
            file.truncate(BULK_SIZE)
        (folder / "nginx.conf").write_text(
            NGINX.format(workers=1, folder=folder)
            + f"""
http {{
    access_log off;
    keepalive_requests 1000000000;
    sendfile on;
    sendfile_max_chunk 64k;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen {HOST}:{HTTP_PORT} backlog=4096;
        location / {{ return 200 "hello\\n"; }}
        location {BULK_PATH} {{ root {folder}; }}
    }}
}}
"""
        )
        web = Running([str(program("nginx")), "-p", name, "-c", "nginx.conf", "-e", "stderr"], folder)
        try:
            wait_for_port(HTTP_PORT)
            yield
        finally:
            web.stop()


def show(results: dict[str, dict[str, float]], failed: dict[str, str]) -> None:
    """Print a table: figures, and in brackets their ratio to HAProxy's."""
    table = Table(title=f"{machine()}: medians; (ratio to HAProxy)")
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right")
    for key, (title, unit, better) in COLUMNS.items():
        row = []
        for figures in results.values():
            value = figures.get(key)
            base = results.get("haproxy", {}).get(key)
            text = "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"  # noqa: PLR2004
            if value is not None and base and better is not None:
                text += f" ({value / base:.2f})"
            row.append(text)
        if any(row):
            table.add_row(f"{title} {unit}".strip(), *row)
    console = Console(width=170)
    console.print(table)
    for name, why in failed.items():
        console.print(f"{name}: not compared, its run had errors: {why}")


def machine() -> str:
    """Name this machine, and the build of the Python that runs mprelay: an optimised build is much faster.

    Distributions record their build options in their own ways, so their builds are only named as theirs.
    """
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    if sys.base_prefix == "/usr":
        build = "the distribution's"
    else:
        optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
        build = f"built with{'' if optimised else 'out'} optimisations"
    return (
        f"{CPUS} CPUs, {model[1] if model else platform.machine()}, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, {build}"
    )


def draw(results: dict[str, dict[str, float]], path: Path) -> None:
    """Draw the comparison that docs/performance.md shows."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and only this function needs it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "mprelay"
    import matplotlib.pyplot as plt  # noqa: PLC0415

    keys = ["connections", "requests", "p99_100", "bulk_8", "bulk_8_cpu", "connection_cpu"]
    names = [name for name in results if name != "none"]
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.2), layout="constrained")
    for key, axis in zip(keys, axes.flat, strict=True):
        title, unit, better = COLUMNS[key]
        values = [results[name].get(key, 0.0) for name in names]
        colours = ["#c0552f" if name.startswith("mprelay") else "#8a94a6" for name in names]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, [f"{value:,.0f}" if value >= 100 else f"{value:.2g}" for value in values], padding=3)  # noqa: PLR2004
        axis.set_title(f"{title}, {unit} ({'more' if better else 'less'} is better)", fontsize=9)
        axis.invert_yaxis()
        axis.set_xlim(0, max(values) * 1.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.suptitle(machine(), fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Measure as the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(description="Measure mprelay beside its peers.")
    parser.add_argument("--quick", action="store_true", help="one short round of HAProxy and mprelay")
    parser.add_argument("--rounds", type=int, help="how often each is measured (default 3)")
    parser.add_argument("--seconds", type=int, help="how long each load runs (default 4)")
    parser.add_argument("--only", nargs="+", choices=list(RELAYS), help="only these")
    parser.add_argument("--json", type=Path, help="write all figures of all rounds here")
    parser.add_argument("--svg", type=Path, help="draw the comparison here")
    asked = parser.parse_args()
    rounds = asked.rounds or (1 if asked.quick else 3)
    seconds = asked.seconds or (2 if asked.quick else 4)
    lacking = [name for name in ("wrk", "iperf3", "nginx") if not program(name)]
    if lacking:
        print(f"bench: needs {', '.join(lacking)} (Debian's packages)", file=sys.stderr)
        return 1
    names = asked.only or (["haproxy", "mprelay session", "mprelay full"] if asked.quick else list(RELAYS))
    names = [name for name in names if RELAYS[name][0]()]
    all_rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    with web_target():
        for number in range(rounds):
            for name in [name for name in names if name not in failed]:
                print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
                try:
                    all_rounds[name].append(measure(name, seconds, quick=asked.quick))
                except Errors as errors:
                    failed[name] = str(errors)
    results = {
        name: {
            key: statistics.median(f[key] for f in runs if key in f)
            for key in COLUMNS
            if any(key in f for f in runs)
        }
        for name, runs in all_rounds.items()
        if name not in failed
    }
    show(results, failed)
    if asked.json:
        document: dict[str, Any] = {
            "machine": machine(),
            "seconds": seconds,
            "columns": {key: {"title": t, "unit": u, "more_is_better": b} for key, (t, u, b) in COLUMNS.items()},
            "medians": results,
            "rounds": all_rounds,
            "failed": failed,
        }
        asked.json.write_text(json.dumps(document, indent=1) + "\n")
    if asked.svg:
        draw(results, asked.svg)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
