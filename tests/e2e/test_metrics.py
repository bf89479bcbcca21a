"""Metrics, health and the page: what they show, and that no reader of them costs the relay anything."""

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import time
from datetime import datetime
from pathlib import Path

import psutil
import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics
from support.control import ctl
from support.patches import HELPER_ANSWERS, IN_SUPERVISOR, METRICS_READY_LIMIT, assigned, replaced, with_site
from support.peers import accept, answering, echo, free_port, listening, receive
from support.processes import links, listens_at, opened
from support.relay import NOWHERE, Relay, failed_start, open_sessions
from support.waiting import PATIENCE, eventually, pass_time

pytestmark = pytest.mark.posix("signals and /proc; metrics were not tried there")

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Reader:
    """Reads from a relay's metrics process."""

    def __init__(self, host="127.0.0.1"):
        self.host = host
        self.port = free_port()
        self.option = "--metrics", f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def request(self, path, method="GET", **headers):
        """Ask once; return the response, with its body read."""
        there = {"0.0.0.0": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104 - nothing is bound here
        connection = http.client.HTTPConnection(there, self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            response.text = response.read().decode()
            return response

    def get(self, path, **headers):
        """Ask once; return the code and the body."""
        response = self.request(path, **headers)
        return response.status, response.text

    def scrape(self, **headers):
        """Return the families of one scrape, read by a strict parser."""
        code, text = self.get("/metrics", **headers)
        assert code == 200, text
        read = openmetrics if "Accept" in headers else parser
        families = [*read.text_string_to_metric_families(text)]
        assert len({family.name for family in families}) == len(families)
        return families

    def samples(self):
        """Return the value of each sample, by its name and labels."""
        return {
            (sample.name, *sorted(value for value in sample.labels.values() if value)): sample.value
            for family in self.scrape()
            for sample in family.samples
        }

    def connect(self):
        """Open a connection that has not asked for anything yet."""
        return socket.create_connection((self.host, self.port), timeout=PATIENCE)


@pytest.fixture
def reader():
    return Reader()


def metrics_process(relay):
    """The process that serves them."""
    (found,) = [one for one in relay.family() if one.cmdline()[:1] == ["mprelay: metrics"]]
    return found


def wake_ups(pid):
    """How often the threads of a process have waited so far, by thread."""
    return {
        thread.name: re.findall(
            r"^voluntary_ctxt_switches:\s+(\d+)$", (thread / "status").read_text(), re.MULTILINE
        )
        for thread in Path(f"/proc/{pid}/task").iterdir()
    }


# -- what is shown -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_they_count_what_the_records_count(host):
    """Both formats have the same families, of the same types."""
    reader = Reader(host)
    with (
        listening() as server,
        Relay(server.getsockname(), *reader.option, acl="!127.0.0.2/32,ANY") as relay,
        contextlib.ExitStack() as stack,
    ):
        with answering(server, b"hello"):
            assert relay.knock().heard == b"hello"
            relay.knock(source="127.0.0.2")
        relay.wait("session.closed")
        relay.wait("connection.rejected")
        open_sessions(stack, relay, server, 2)
        samples = reader.samples()
        assert samples["mprelay_connections_total", "admitted"] == 3
        assert samples["mprelay_connections_total", "rejected"] == 1
        assert samples["mprelay_sessions_closed_total", "target_read_closed"] == 1
        assert samples["mprelay_sessions_closed_total", "worker_lost"] == 0
        assert samples["mprelay_received_bytes_total", "from_target"] == 5
        assert samples["mprelay_sessions_active",] == 2
        assert samples["mprelay_sessions_limit",] == 500
        assert samples["mprelay_worker_sessions", "1"] + samples["mprelay_worker_sessions", "2"] == 2
        assert samples["mprelay_connect_seconds_count",] == 3
        assert samples["mprelay_session_seconds_count",] == 1
        assert samples["mprelay_session_seconds_bucket", "+Inf"] == 1
        duration_s = relay.all("session.closed")[0]["duration_ms"] / 1000
        assert samples["mprelay_session_seconds_sum",] == pytest.approx(duration_s, abs=1e-5)
        assert samples["mprelay_ready",] == 1
        assert ("mprelay_expires_in_seconds",) not in samples
        for process in ("supervisor", "outlet", "metrics"):
            assert samples["mprelay_process_resident_memory_bytes", process] > 1e6
            assert samples["mprelay_process_open_fds", process] > 3
        assert samples["mprelay_process_cpu_seconds_total", "1", "worker"] > 0
        plain, strict = reader.scrape(), reader.scrape(Accept=OPENMETRICS)
        types = {family.name: family.type for family in plain}
        assert types == {family.name: family.type for family in strict}
        assert all(name.startswith("mprelay_") for name in types)
        assert reader.get("/metrics", Accept=OPENMETRICS)[1].endswith("# EOF\n")
        counters = {name + "_total" for name, kind in types.items() if kind == "counter"}
        assert not counters & set(types)
        assert not {name.removesuffix("_total") for name in counters} & (set(types) - {n[:-6] for n in counters})


def test_promtool_likes_the_names(tool, reader):
    """The linter of Prometheus itself."""
    promtool = tool("promtool")
    with Relay(NOWHERE, *reader.option):
        _, text = reader.get("/metrics")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text.encode(), capture_output=True, timeout=PATIENCE, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_no_counter_falls_when_workers_die(reader):
    """Those of a dead worker's process go on with the next one. Its gauges are gone with it."""
    with listening() as server, Relay(server.getsockname(), *reader.option) as relay:
        before = reader.samples()
        for scrape in range(20):
            if scrape % 5 == 0:
                pid = relay.workers()[1]
                os.kill(pid, signal.SIGKILL)
            samples = reader.samples()
            for name, value in before.items():
                if name[0].endswith(("_total", "_count", "_sum", "_bucket")) and name in samples:
                    assert samples[name] >= value, name
            before |= samples
            if scrape % 5 == 0:
                relay.wait("worker.exited", scrape // 5 + 1)
                samples = reader.samples()
                if relay.workers()[1] == pid:
                    assert ("mprelay_worker_sessions", "1") not in samples
                    assert ("mprelay_process_open_fds", "1", "worker") not in samples
                relay.wait("worker.started", scrape // 5 + 3)
                samples = reader.samples()
                assert samples["mprelay_worker_restarts_total", "1"] == scrape // 5 + 1
                assert samples["mprelay_worker_sessions", "1"] == 0


def test_the_seconds_to_the_expiry_are_shown(reader):
    """They become fewer."""
    with Relay(NOWHERE, *reader.option, "3", "300", "60"):
        first = reader.samples()["mprelay_expires_in_seconds",]
        second = reader.samples()["mprelay_expires_in_seconds",]
        assert 60 >= first > second > 0


def test_a_pause_is_shown_and_counted(reader, tmp_path):
    """While the operator holds admission back, the relay is not ready, but it lives."""
    path = tmp_path / "control"
    with Relay(NOWHERE, *reader.option, "--control", str(path)):
        assert reader.get("/readyz") == (200, "ready\n")
        assert ctl(path, "pause").returncode == 0
        assert reader.get("/readyz") == (503, "paused by operator\n")
        assert reader.get("/healthz") == (200, "ok\n")
        first = reader.samples()["mprelay_admission_paused_seconds_total", "operator"]
        assert reader.samples()["mprelay_admission_paused_seconds_total", "operator"] > first
        assert ctl(path, "resume").returncode == 0
        assert reader.get("/readyz") == (200, "ready\n")
        paused = reader.samples()["mprelay_admission_paused_seconds_total", "operator"]
        assert reader.samples()["mprelay_admission_paused_seconds_total", "operator"] == paused


def test_a_drain_is_not_ready_but_healthy(reader):
    """From the moment at which it is recorded."""
    with listening() as server, Relay(server.getsockname(), *reader.option) as relay:
        with relay.connect() as client, accept(server) as target:
            relay.wait("session.target_channel_active")
            relay.signal()
            relay.wait("relay.draining")
            assert reader.get("/readyz") == (503, "draining\n")
            assert reader.get("/healthz") == (200, "ok\n")
            echo(client, target)
            assert reader.samples()["mprelay_phase", "draining"] == 1
        relay.finish()


def test_a_target_that_is_down_changes_nothing(reader):
    """The relay would say so to each client, and in each record."""
    with Relay(("127.0.0.1", free_port()), *reader.option) as relay:
        relay.knock()
        relay.wait("session.closed", reason="connect_refused")
        assert reader.get("/readyz") == (200, "ready\n")


def test_addresses_and_labels_are_for_this_host_only():
    """Whoever can reach another address reads how many there are, and not who."""
    for host, shown in (("127.0.0.1", True), ("0.0.0.0", False)):  # noqa: S104 - that is the test
        reader = Reader(host)
        with (
            listening() as server,
            Relay(server.getsockname(), *reader.option, "--label", "owner=Ada", acl="127.0.0.0/9") as relay,
            contextlib.ExitStack() as stack,
        ):
            ((client, _),) = open_sessions(stack, relay, server, 1)
            code, text = reader.get("/status.json")
            assert code == 200
            status = json.loads(text)
            (session,) = status["sessions"]
            assert session["session"] == 1
            assert (session.get("client_port") == client.getsockname()[1]) is shown
            assert ("client_ip" in session) is shown
            assert (status.get("labels") == {"owner": "Ada"}) is shown
            assert ("127.0.0.0/9" in text) is shown
            everything = text + reader.get("/metrics")[1]
            assert ("Ada" in everything) is shown


def test_a_list_of_sessions_is_bounded(reader):
    """The oldest ones stand in it. Their number is told."""
    with (
        listening(backlog=512) as server,
        Relay(server.getsockname(), *reader.option, "--log-detail", "session") as relay,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(210):
            stack.enter_context(relay.connect())
            stack.enter_context(accept(server))
        status = json.loads(reader.get("/status.json")[1])
        assert status["active"] == 210
        assert [one["session"] for one in status["sessions"]] == [*range(1, 201)]


# -- who may ask, and how ------------------------------------------------------------------------------------


def test_only_this_hosts_names_are_served(reader):
    """A page of the web can have its own name lead here, but it cannot change that name."""
    with Relay(NOWHERE, *reader.option):
        for host in ("127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:9100", "192.0.2.1", socket.gethostname()):
            assert reader.get("/healthz", Host=host) == (200, "ok\n"), host
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "a b"):
            refused = reader.request("/healthz", Host=host)
            assert refused.status == 421, host
            assert f"an address, localhost or {socket.gethostname().lower()}" in refused.text
            assert refused.headers["Server"] == "mprelay"


def test_answers_are_not_kept_nor_guessed_at(reader):
    """Each answer says so, errors included. A HEAD has no body."""
    with Relay(NOWHERE, *reader.option):
        for path, code in (("/", 200), ("/metrics", 200), ("/readyz?x=1", 200), ("/secret", 404)):
            response = reader.request(path)
            assert response.status == code
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Content-Security-Policy"].startswith(
                "default-src 'none'; script-src 'sha256-"
            )
        assert reader.request("/healthz", "HEAD").text == ""
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
            response = reader.request("/metrics", method)
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"GET /healthz\r\n\r\n", b"421"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", b"421"),
        (b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03\r\n", b"400"),
        (b"GET http://[/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET http://evil.example/status.json HTTP/1.1\r\nHost: localhost\r\n\r\n", b"421"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
    ],
)
def test_a_bad_request_is_refused(reader, said, code):
    """Whatever comes, the next one is served."""
    with Relay(NOWHERE, *reader.option):
        with reader.connect() as client:
            with contextlib.suppress(ConnectionError):
                client.sendall(said)
            heard = b""
            with contextlib.suppress(ConnectionError):
                heard = receive(client)
            assert heard.startswith(b"HTTP/1.0 " + code), heard
            assert b"\r\nContent-Security-Policy: " in heard
        assert reader.get("/healthz") == (200, "ok\n")


@pytest.mark.parametrize(
    ("version", "given"),
    [
        ("1.0.0", "1.0.0"),
        ("2.0.0", "2.0.0"),
        ("x", None),
        ("1.x", None),
        ("2.x\r\n X-Evil: 1", None),
        ("1.0.0\u00b2", None),
        ("9" * 5000, None),
    ],
)
def test_a_version_that_is_none_is_as_good_as_no_version(reader, version, given):
    """Whoever asks for it is served in the usual format, and does not meet what was asked for in a header."""
    with Relay(NOWHERE, *reader.option):
        response = reader.request("/metrics", Accept=f"application/openmetrics-text;version={version},*/*;q=0.1")
        assert response.status == 200
        content_type = response.headers["Content-Type"]
        if given is None:
            assert content_type == "text/plain; version=0.0.4; charset=utf-8"
        else:
            assert content_type.startswith(f"application/openmetrics-text; version={given};")


@pytest.mark.slow
def test_slow_readers_do_not_take_every_place_for_ever(reader):
    """A byte now and then does not help. The seventeenth waits, and is served."""
    with Relay(NOWHERE, *reader.option), contextlib.ExitStack() as stack:
        slow = [stack.enter_context(reader.connect()) for _ in range(16)]
        for client in slow:
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
        late = stack.enter_context(reader.connect())
        late.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        begun = time.monotonic()
        while not select.select([late], [], [], 0.2)[0]:
            for client in slow:
                with contextlib.suppress(ConnectionError):
                    client.sendall(b"X")
        assert time.monotonic() - begun > 2
        assert receive(late).endswith(b"\r\n\r\nok\n")
        for client in slow:
            with contextlib.suppress(ConnectionError):
                assert receive(client) == b""


# -- what it costs -------------------------------------------------------------------------------------------


def test_nobody_is_woken_when_nobody_looks(reader):
    """Neither the supervisor nor the metrics process."""
    with Relay(NOWHERE, *reader.option, "--stats-interval", "0") as relay:
        assert reader.get("/status.json")[0] == 200
        pass_time(0.3)
        watched = relay.pid, metrics_process(relay).pid
        before = [wake_ups(pid) for pid in watched]
        pass_time(1.0)
        assert [wake_ups(pid) for pid in watched] == before


def test_a_supervisor_that_stands_still_is_not_healthy(reader):
    """When it goes on, it is."""
    with Relay(NOWHERE, *reader.option) as relay:
        relay.suspend()
        try:
            for path in ("/healthz", "/readyz", "/metrics", "/status.json"):
                assert reader.get(path) == (503, "the supervisor has not answered in time\n")
        finally:
            relay.resume()
        assert reader.get("/healthz") == (200, "ok\n")


def test_a_metrics_process_that_stands_still_costs_nothing(reader):
    """Sessions go on, and the relay can end."""
    with listening() as server, Relay(server.getsockname(), *reader.option) as relay:
        metrics_process(relay).send_signal(signal.SIGSTOP)
        with reader.connect() as asking:
            asking.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with relay.connect() as client, accept(server) as target:
                echo(client, target)


@pytest.mark.wall_clock("the one second that docs/contract.md allows for an expiry")
def test_the_expiry_does_not_wait_for_a_scrape(reader):
    """One that hangs is cut."""
    with Relay(NOWHERE, *reader.option, "3", "300", "5") as relay, reader.connect() as hanging:
        hanging.sendall(b"GET /metrics HTTP/1.1\r\n")
        relay.finish()
        active, stopped = relay.wait("relay.active"), relay.wait("relay.stopped")
        assert stopped["reason"] == "expired"
        late = datetime.fromisoformat(stopped["timestamp"]) - datetime.fromisoformat(active["expires_at"])
        assert late.total_seconds() < 1
        with contextlib.suppress(ConnectionError):
            assert receive(hanging) == b""


# -- the page, and Prometheus itself -------------------------------------------------------------------------


def test_the_page_shows_the_relay_in_a_browser(tool, reader, tmp_path):
    """Its policy lets its own script run, and a label is a text, whatever it holds."""
    chromium = tool("chromium")
    label = "note=</p><img src=x onerror=\"document.title='hurt'\">"
    with (
        listening() as server,
        Relay(server.getsockname(), *reader.option, "--label", label, "3", "300", "7200") as relay,
        contextlib.ExitStack() as stack,
    ):
        ((client, _),) = open_sessions(stack, relay, server, 1)
        dumped = subprocess.run(
            [
                *(chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"),
                *("--virtual-time-budget=3000", "--dump-dom", f"http://127.0.0.1:{reader.port}/"),
            ],
            capture_output=True,
            timeout=60,
            check=True,
        )
        shown = dumped.stdout.decode()
        assert f"<td>127.0.0.1:{client.getsockname()[1]}</td>" in shown
        assert "<title>mprelay: active, 1 sessions</title>" in shown
        assert "note=&lt;/p&gt;&lt;img src=x" in shown
        assert "1 h 59 min" in shown


def test_the_page_needs_nothing_from_elsewhere(reader):
    """No address of another place stands in it, and nothing in it makes markup of a text."""
    with Relay(NOWHERE, *reader.option):
        code, page = reader.get("/")
    assert code == 200
    for word in (
        "http:",
        "https:",
        "//cdn",
        "src=",
        "@import",
        "url(",
        "innerHTML",
        "insertAdjacentHTML",
        " style=",
    ):
        assert word not in page, word


def test_the_alert_rules_are_right(tool):
    """As far as Prometheus' own tests of them tell. The dashboard names metrics that are there."""
    promtool = tool("promtool")
    contrib = Path(__file__).resolve().parents[2] / "contrib"
    for what, name in (("check", "mprelay.rules.yml"), ("test", "mprelay.test.yml")):
        done = subprocess.run(
            [promtool, what, "rules", name],
            cwd=contrib / "prometheus",
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_dashboard_name_metrics_that_are_there(reader):
    """A name that nobody has is an alert that never comes."""
    contrib = Path(__file__).resolve().parents[2] / "contrib"
    with Relay(NOWHERE, *reader.option, "3", "300", "60"):
        there = {sample.name for family in reader.scrape() for sample in family.samples}
    for name in ("prometheus/mprelay.rules.yml", "prometheus/mprelay.test.yml", "grafana/mprelay.json"):
        named = set(re.findall(r"\bmprelay_[a-z_]+", (contrib / name).read_text()))
        assert named, name
        assert named <= there, name
    json.loads((contrib / "grafana/mprelay.json").read_text())


@pytest.mark.slow
def test_prometheus_scrapes_it(tool, reader, tmp_path):
    """The target is up, and its metrics can be queried."""
    prometheus = tool("prometheus")
    port = free_port()
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        f'  - {{job_name: mprelay, static_configs: [{{targets: ["127.0.0.1:{reader.port}"]}}]}}\n'
    )

    def query(expression):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with contextlib.closing(connection), contextlib.suppress(ConnectionError, ValueError):  # not ready yet
            connection.request("GET", f"/api/v1/query?query={expression}")
            answer = json.loads(connection.getresponse().read() or b"{}")
            return {one["value"][1] for one in answer.get("data", {}).get("result", ())}
        return set()

    command = [
        *(prometheus, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (
        Relay(NOWHERE, *reader.option),
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as scraping,
    ):
        try:
            eventually(lambda: query("mprelay_ready") == {"1"}, "it is scraped")
            assert query("up") == {"1"}
            assert query("mprelay_sessions_limit") == {"500"}
        finally:
            scraping.terminate()


# -- the process ---------------------------------------------------------------------------------------------


def test_the_process_holds_nothing_of_the_relay(reader):
    """No listener of it, no session, no way to stdout."""
    with (
        listening() as server,
        Relay(server.getsockname(), *reader.option) as relay,
        contextlib.ExitStack() as stack,
    ):
        open_sessions(stack, relay, server, 1)
        process = metrics_process(relay)
        connections = process.net_connections("tcp")
        assert {one.laddr.port for one in connections} == {reader.port}
        held = links(process.pid)
        assert (held[0], held[1]) == ("/dev/null", "/dev/null")
        assert opened(relay.outlet().pid, 1) not in held.values()
        assert Path(f"/proc/{process.pid}/comm").read_text() == "mprelay-metrics\n"


def test_signals_do_not_end_the_process_but_the_end_of_the_supervisor_does(reader):
    """Ctrl-C reaches the whole group."""
    with Relay(NOWHERE, *reader.option) as relay:
        process = metrics_process(relay)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        assert reader.get("/healthz") == (200, "ok\n")
        relay.kill()
        psutil.wait_procs([process], timeout=PATIENCE)
        assert not process.is_running()


def test_a_process_that_stands_still_does_not_hold_the_outlet(reader):
    """The supervisor is killed. What has been recorded is written, and nothing is left."""
    with Relay(NOWHERE, *reader.option) as relay:
        family, outlet = relay.family(), relay.outlet()
        metrics_process(relay).send_signal(signal.SIGSTOP)
        relay.kill()
        _gone, alive = psutil.wait_procs([*family, outlet], timeout=PATIENCE)
        assert alive == []


def test_a_process_that_dies_is_replaced(reader):
    """The relay goes on without it. What it counts is not lost."""
    with listening() as server, Relay(server.getsockname(), *reader.option) as relay:
        with answering(server):
            relay.knock()
        relay.wait("session.closed")
        metrics_process(relay).kill()
        record = relay.wait("metrics.failed")
        assert (record["level"], record["error"], record["detail"]) == ("warning", None, "ended with SIGKILL")

        def served():
            with contextlib.suppress(OSError):
                return reader.samples()["mprelay_session_seconds_count",] == 1
            return False

        eventually(served, "it serves again")


def test_nobody_is_served_before_the_process_has_said_that_it_serves(reader, tmp_path):
    """Somebody may ask at once. A question before the first words would be taken for those of another build."""
    checked = """
import threading
def broken(self, data):
    assert threading.active_count() == 1
    whole(self, data)
"""
    with Relay(NOWHERE, *reader.option, env=with_site(tmp_path, replaced(HELPER_ANSWERS, checked))):
        assert reader.get("/healthz") == (200, "ok\n")


def test_a_replacement_whose_address_is_taken_says_so_at_once(reader, tmp_path):
    """And the next one serves."""
    env = with_site(tmp_path, IN_SUPERVISOR + assigned(METRICS_READY_LIMIT, "600.0"))
    with Relay(NOWHERE, *reader.option, env=env) as relay:
        relay.suspend()  # so that nothing takes its place yet
        metrics_process(relay).kill()
        eventually(lambda: not listens_at(reader.port), "it has let go of the port")
        with listening(port=reader.port):
            relay.resume()
            record = relay.wait("metrics.failed", 2)
            assert record["error"] == "EADDRINUSE"
            assert "Address already in use" in record["detail"]

        def served():
            with contextlib.suppress(OSError):
                return reader.get("/healthz") == (200, "ok\n")
            return False

        eventually(served, "it serves again")


def test_an_address_that_is_taken_is_a_wrong_parameter(reader):
    """The relay never becomes active."""
    with listening(port=reader.port):
        *_, wrong = [record for record in failed_start(2, *reader.option) if record["event"] == "config.invalid"]
    assert (wrong["parameter"], wrong["value"]) == ("metrics", reader.option[1])
    assert "Address already in use" in wrong["problem"]


def test_a_missing_library_says_what_to_install(reader, tmp_path):
    """It is needed for this parameter only. Nothing is started without it, and --check tells it too."""
    environment = with_site(tmp_path, "import sys; sys.modules['prometheus_client'] = None")
    for options in (), ("--check",):
        with Relay(
            NOWHERE, *reader.option, *options, env=environment, wait_active=False, expect_code=2, quiet=False
        ) as relay:
            relay.finish()
        (wrong,) = relay.records
        assert (wrong["parameter"], wrong["value"]) == ("metrics", reader.option[1])
        assert "pip install 'mprelay[metrics]'" in wrong["problem"]
    with Relay(NOWHERE, env=environment):
        pass
