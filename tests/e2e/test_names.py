"""A target by name, with a real DNS server that changes its answer, fails, is slow, or gives many addresses."""

import json
import signal
import socket
import time
from pathlib import Path

import pytest
from support.dns import NAME, dns_server, why_not_here
from support.launching import PYTHON_EXE, run
from support.patches import (
    HELPER_ANSWERS,
    IN_SUPERVISOR,
    RESOLVER_PAUSE,
    assigned,
    replaced,
    with_site,
)
from support.peers import accept, answering, echo, ends_with_reset, free_port, listening, silent
from support.relay import Relay
from support.waiting import eventually, pass_time

OFTEN = ("--resolve", "0.1")


@pytest.fixture
def dns():
    """The server."""
    if PYTHON_EXE:
        pytest.skip("the relay is started in a mount namespace")
    if why := why_not_here():
        pytest.skip(f"no mount namespace with files of its own: {why}")
    with dns_server() as server:
        yield server


def serves(relay, server):
    """A new session reaches this server. Returns the record of its relaying."""
    with relay.connect() as client, accept(server) as target:
        echo(client, target)
        port = client.getsockname()[1]
        return relay.wait("session.target_channel_active", client_port=port)


def test_a_failing_resolver_leaves_the_last_answer_in_force(dns, tmp_path):
    """Each failure is told once, and which it is. A name that does not exist is an answer."""
    dns.answer(["127.0.0.1"])
    with (
        listening() as server,
        Relay((NAME, server.getsockname()[1]), *OFTEN, command=dns.asking(tmp_path)) as relay,
    ):
        active = relay.wait("relay.active")
        assert (active["target_host"], active["target_ip"]) == (NAME, "127.0.0.1")
        assert relay.wait("target.resolved")["addresses"] == ["127.0.0.1"]
        serves(relay, server)
        for failure in ("SERVFAIL", "REFUSED", None):
            dns.answer(failure)
            relay.wait("target.resolve_failed", error=failure or "TIMEOUT")
            dns.wait(4, 20)
            serves(relay, server)
        dns.answer("NXDOMAIN")
        relay.wait("target.resolve_failed", error="NXDOMAIN")
        with relay.connect() as client:
            assert ends_with_reset(client)
        closed = relay.wait("session.closed", reason="connect_failed")
        assert (closed["error"], closed["target_ip"]) == ("NXDOMAIN", None)
        allocated = relay.all("session.allocated")[-1]
        assert allocated["message"].endswith(f"Connecting to target {NAME}.")
        dns.answer(["127.0.0.1"])
        relay.wait("target.resolved", 2)
        serves(relay, server)
        assert len(relay.all("target.resolve_failed")) == 4


def test_a_change_counts_for_new_sessions(dns, tmp_path):
    """Those that are there stay. A worker that starts later knows the latest answer."""
    port = free_port()
    dns.answer(["127.0.0.1"])
    with (
        listening(port=port) as first,
        listening(host="127.0.0.2", port=port) as second,
        Relay((NAME, port), *OFTEN, command=dns.asking(tmp_path), workers=1) as relay,
        relay.connect() as client,
        accept(first) as target,
    ):
        dns.answer(["127.0.0.2"])
        assert relay.wait("target.resolved", 2)["addresses"] == ["127.0.0.2"]
        assert serves(relay, second)["target_ip"] == "127.0.0.2"
        echo(client, target)
        relay.worker(1).kill()
        assert relay.wait("session.closed", reason="worker_lost")["target_ip"] == "127.0.0.1"
        relay.wait("worker.started", 2)
        serves(relay, second)
        dns.answer(["127.0.0.2", "127.0.0.2"])  # the same in other words
        dns.wait(6, 20)
        assert len(relay.all("target.resolved")) == 2


def test_of_thirty_addresses_all_are_tried(dns, tmp_path):
    """The records name the one that was tried last."""
    port = free_port()
    dns.answer([f"127.0.2.{number}" for number in range(1, 31)])
    with (
        listening(host="127.0.2.30", port=port) as server,
        Relay((NAME, port), *OFTEN, command=dns.asking(tmp_path)) as relay,
    ):
        assert len(relay.wait("target.resolved")["addresses"]) == 30
        assert serves(relay, server)["target_ip"] == "127.0.2.30"
        server.close()
        with relay.connect() as client:
            assert ends_with_reset(client)
        closed = relay.wait("session.closed", reason="connect_refused")
        assert closed["target_ip"] == "127.0.2.30"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_both_families_are_tried(dns, tmp_path, family):
    """Whichever of them answers is taken."""
    ip = "127.0.0.1" if family == socket.AF_INET else "::1"
    dns.answer(["127.0.0.1"], ["::1"])
    with (
        listening(family, ip) as server,
        Relay((NAME, server.getsockname()[1]), *OFTEN, command=dns.asking(tmp_path)) as relay,
    ):
        assert sorted(relay.wait("target.resolved")["addresses"]) == ["127.0.0.1", "::1"]
        assert serves(relay, server)["target_ip"] == ip


def test_addresses_that_do_not_answer_share_the_connect_timeout(dns, tmp_path):
    """The session ends by it in any case, with the address that was tried last."""
    with silent() as (server, _filler):
        ip, port = server.getsockname()
        dns.answer([ip, "127.0.0.2"])
        options = (*OFTEN, "--connect-timeout", "1")
        with (
            listening(host="127.0.0.2", port=port) as other,
            Relay((NAME, port), *options, command=dns.asking(tmp_path)) as relay,
        ):
            first, second = relay.wait("target.resolved")["addresses"]
            assert serves(relay, other)["target_ip"] == "127.0.0.2"
            connected = relay.wait("session.connected")
            assert (first, second) == (ip, "127.0.0.2")
            assert 500 <= connected["connect_ms"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("NXDOMAIN", "there is no such name (NXDOMAIN)"),
        ("SERVFAIL", "the server has failed (SERVFAIL)"),
        ("REFUSED", "the server has refused to answer (REFUSED)"),
        (None, "no server has answered in time (TIMEOUT)"),
        ([], "the name has no address (NODATA)"),
        (["0.0.0.0"], "none of its addresses can be used: 0.0.0.0 is the unspecified address"),  # noqa: S104
    ],
)
def test_a_name_without_an_address_at_the_start_is_message_3(dns, tmp_path, answer, words):
    """It has the resolver's error, and nothing is started."""
    dns.answer(answer)
    with Relay(
        (NAME, 80), *OFTEN, command=dns.asking(tmp_path), wait_active=False, expect_code=2, quiet=False
    ) as relay:
        relay.finish()
    (record,) = relay.records
    assert (record["msg_id"], record["parameter"], record["value"]) == (3, "trg_host", NAME)
    assert words in record["problem"]


def test_an_address_that_cannot_be_used_is_left_out_and_that_is_said(dns, tmp_path):
    """Once, and not at each look-up. One that only changes is said again."""
    dns.answer(["0.0.0.0", "127.0.0.1"])  # noqa: S104 - nothing listens
    with (
        listening() as server,
        Relay((NAME, server.getsockname()[1]), *OFTEN, command=dns.asking(tmp_path)) as relay,
    ):
        assert relay.wait("target.resolved")["addresses"] == ["127.0.0.1"]
        assert "0.0.0.0 is the unspecified address" in relay.wait("target.resolve_failed")["problem"]
        serves(relay, server)
        dns.answer(["224.0.0.1"])
        assert "224.0.0.1 is a multicast address" in relay.wait("target.resolve_failed", 2)["problem"]
        serves(relay, server)
        dns.answer(["127.0.0.1"])
        relay.wait("target.resolved", 2)
        assert len(relay.all("target.resolve_failed")) == 2


def test_an_alias_is_followed(dns, tmp_path):
    """An answer names what the name stands for, and whose addresses those are."""
    dns.answer(["127.0.0.1"])
    dns.alias_of = dns.owner = "node-7.example"
    with (
        listening() as server,
        Relay((NAME, server.getsockname()[1]), *OFTEN, command=dns.asking(tmp_path)) as relay,
    ):
        serves(relay, server)


def test_an_address_of_another_name_is_no_answer(dns, tmp_path):
    """Whoever answers may add what nobody has asked for."""
    dns.answer(["127.0.0.1"])
    dns.owner = "evil.example"
    with Relay(
        (NAME, 80), *OFTEN, command=dns.asking(tmp_path), wait_active=False, expect_code=2, quiet=False
    ) as relay:
        relay.finish()
    (record,) = relay.records
    assert "the name has no address (NODATA)" in record["problem"]


def test_a_short_name_is_completed(dns, tmp_path):
    """By the domains of resolv.conf(5), as all programs do it."""
    dns.answer(["127.0.0.1"])
    short, _, domain = NAME.partition(".")
    command = dns.asking(tmp_path, domain=domain)
    with (
        listening() as server,
        Relay((short, server.getsockname()[1]), *OFTEN, command=command) as relay,
    ):
        serves(relay, server)


def test_a_question_that_is_never_answered_does_not_hold_the_others(dns, tmp_path):
    """The family that is known counts, and what is missing is told."""
    dns.answer(["127.0.0.1"], None)
    with (
        listening() as server,
        Relay((NAME, server.getsockname()[1]), *OFTEN, command=dns.asking(tmp_path)) as relay,
    ):
        assert relay.wait("target.resolved")["addresses"] == ["127.0.0.1"]
        assert relay.wait("target.resolve_failed")["error"] == "TIMEOUT"
        serves(relay, server)


@pytest.mark.parametrize(("a", "aaaa"), [("SERVFAIL", []), ("SERVFAIL", "NXDOMAIN"), (None, [])])
def test_a_family_that_fails_keeps_its_addresses(dns, tmp_path, a, aaaa):
    """Whatever is known of the other one."""
    dns.answer(["127.0.0.1"])
    with (
        listening() as server,
        Relay((NAME, server.getsockname()[1]), *OFTEN, command=dns.asking(tmp_path)) as relay,
    ):
        serves(relay, server)
        dns.answer(a, aaaa)
        relay.wait("target.resolve_failed", error=a or "TIMEOUT")
        dns.wait(4, 20)
        serves(relay, server)
        assert len(relay.all("target.resolved")) == 1


def test_a_target_that_changes_often_is_not_told_each_time(dns, tmp_path):
    """Nor is anything told while nobody reads: what counts is told afterwards."""
    dns.answer(["127.0.0.1"])
    with (
        listening() as server,
        answering(server, b"in"),
        Relay(
            (NAME, server.getsockname()[1]), *OFTEN, "--label", "x=" + "x" * 900, command=dns.asking(tmp_path)
        ) as relay,
    ):
        relay.stall()
        for last in range(2, 22):
            dns.answer(["127.0.0.1", f"127.0.0.{last}"])
            dns.wait(2, 20)
        relay.reading.set()
        relay.wait("target.resolved", addresses=["127.0.0.1", "127.0.0.21"])
        assert len(relay.all("target.resolved")) <= 5


@pytest.mark.wall_clock("a second for a stop signal, though no server answers")
def test_a_stop_signal_ends_the_first_look_up(dns, tmp_path):
    """There is no relay yet, so it acts by default."""
    dns.answer(None)
    with Relay(
        (NAME, 80), *OFTEN, command=dns.asking(tmp_path), wait_active=False, expect_code=-signal.SIGTERM
    ) as relay:
        dns.wait(2, 20)
        begun = time.monotonic()
        relay.signal()
        relay.finish()
        assert time.monotonic() - begun < 1


def test_a_slow_server_is_waited_for(dns, tmp_path):
    """No session waits for it."""
    dns.delay = 0.5
    dns.answer(["127.0.0.1"])
    with (
        listening() as server,
        Relay((NAME, server.getsockname()[1]), *OFTEN, command=dns.asking(tmp_path)) as relay,
    ):
        serves(relay, server)
        dns.answer(["127.0.0.1", "127.0.0.2"])
        relay.wait("target.resolved", 2)
        assert relay.all("target.resolve_failed") == []


@pytest.mark.slow
@pytest.mark.wall_clock("a second for the end, though the resolver hangs")
def test_one_look_up_is_under_way_at_most_and_the_end_waits_for_none(dns, tmp_path):
    """A look-up has two questions, and each is asked twice within two seconds or more."""
    dns.answer(["127.0.0.1"])
    with (
        listening() as server,
        Relay((NAME, server.getsockname()[1]), *OFTEN, command=dns.asking(tmp_path)) as relay,
    ):
        dns.answer(None)
        dns.wait(2, 20)
        begun, before = time.monotonic(), len(dns.asked)
        pass_time(8)
        assert len(dns.asked) - before <= 4 * ((time.monotonic() - begun) / 2 + 1)
        serves(relay, server)
        begun = time.monotonic()
        assert relay.stop() == 0
        assert time.monotonic() - begun < 1


def test_the_process_that_looks_up_may_die(dns, tmp_path):
    """That is a resolver that fails. Another one takes its place, and looks up at once."""
    dns.answer(["127.0.0.1"])
    env = with_site(tmp_path, IN_SUPERVISOR + assigned(RESOLVER_PAUSE, "2.0"))
    with (
        listening() as server,
        Relay((NAME, server.getsockname()[1]), "--resolve", "1h", command=dns.asking(tmp_path), env=env) as relay,
    ):
        workers = {*relay.workers().values(), relay.outlet().pid}
        dns.answer(["127.0.0.1", "127.0.0.2"])
        eventually(lambda: len(resolvers(relay, workers)) == 1, "it is there")
        resolvers(relay, workers)[0].kill()
        failed = relay.wait("target.resolve_failed")
        assert failed["problem"] == "the process that looks it up ended with SIGKILL"
        serves(relay, server)
        relay.wait("target.resolved", 2)


def resolvers(relay, others):
    """The processes that look up."""
    return [process for process in relay.family() if process.pid not in others and is_resolver(process.pid)]


@pytest.mark.parametrize(
    "answer", ["5", "[null,null,null]", '[["db.evil"],[],null,null,false]', '[["1"],[],null,null,false]', "?"]
)
def test_what_looks_up_is_not_believed(dns, tmp_path, answer):
    """It hears from the network. What is no answer ends it, and the last one stays in force."""
    dns.answer(["127.0.0.1"])
    code = f"broken = lambda self, data: whole(self, {answer.encode()!r} + b'\\n' if data else data)"
    env = with_site(tmp_path, replaced(HELPER_ANSWERS, code))
    with (
        listening() as server,
        Relay((NAME, server.getsockname()[1]), *OFTEN, command=dns.asking(tmp_path), env=env) as relay,
    ):
        problem = relay.wait("target.resolve_failed")["problem"]
        assert problem.startswith("the process that looks it up gave no answer: ")
        serves(relay, server)


def is_resolver(pid):
    """Whether this is the process that looks up."""
    return Path(f"/proc/{pid}/comm").read_text() == "mprelay-names\n"


HOSTS = """\
127.0.0.1 localhost
127.0.0.2 db-primary DB  # names of one host
127.0.0.3 db-replica
127.0.0.3 two.test
127.0.0.4 Two.Test
no-address two.test
"""


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("db-replica", ["127.0.0.3"]),
        ("db.", ["127.0.0.2"]),
        ("two.test", ["127.0.0.3", "127.0.0.4"]),
        ("localhost", ["127.0.0.1"]),
        ("db.localhost", ["::1", "127.0.0.1"]),
    ],
)
def test_the_hosts_file_is_asked_first(dns, tmp_path, name, addresses):
    """A name has the addresses of its own lines, and no server is asked."""
    with Relay((name, 9), *OFTEN, command=dns.asking(tmp_path, HOSTS)) as relay:
        assert relay.wait("target.resolved")["addresses"] == addresses
    assert dns.asked == []


def test_localhost_needs_no_server():
    """As for any program."""
    with listening() as server, Relay(("localhost", server.getsockname()[1]), "--resolve", "1") as relay:
        assert "127.0.0.1" in relay.wait("target.resolved")["addresses"]
        serves(relay, server)


def test_a_name_needs_the_option():
    """Without it, it is message 3, which says so. An address needs no look-up."""
    done = run("9", NAME, "80", "ANY")
    assert done.returncode == 2
    record = json.loads(done.stdout)
    assert record["msg_id"] == 3
    assert record["problem"] == f"<trg host> {NAME!r} must be an IPv4 or IPv6 address; a name needs --resolve."
    with listening() as server, Relay(server.getsockname(), *OFTEN) as relay:
        assert relay.all("target.resolved") == []
        assert len(relay.family()) == 3 + (not PYTHON_EXE)  # two workers, outlet, and the resource tracker
