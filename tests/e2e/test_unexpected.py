"""An exception that nobody expected is a record with its place, and the process ends in a defined way."""

import contextlib
import os
import signal

from harness import Relay, accept, echo, ends_with_reset, listening, receive, with_site


def test_in_a_worker_it_costs_that_worker_alone(tmp_path):
    """Its sessions are lost, another takes its place, and serves."""
    code = f"""
import mprelay.relay
happened = mprelay.relay.Relay._happened
def broken(self, link, *what):
    if link.serial == 1:
        raise ZeroDivisionError("by a test")
    happened(self, link, *what)
mprelay.relay.Relay._happened = broken
open({str(tmp_path / "used")!r}, "w").close()
"""
    with listening() as server, Relay(server.getsockname(), env=with_site(tmp_path, code), workers=1) as relay:
        with contextlib.suppress(ConnectionResetError), relay.connect() as client:  # even connect(2) may see it
            assert ends_with_reset(client)
        crash = relay.wait("internal.error")
        assert (crash["worker"], crash["error"]) == (1, "ZeroDivisionError: by a test")
        assert crash["place"].endswith(" broken")
        died = relay.wait("worker.exited")
        assert (died["exitcode"], died["level"]) == (70, "warning")
        assert relay.wait("session.closed")["reason"] == "worker_lost"
        relay.wait("worker.started", 2)
        accept(server).close()
        with relay.connect() as client, accept(server) as target:
            client.sendall(b"x")
            assert receive(target, 1) == b"x"
    assert (tmp_path / "used").exists()


def test_a_worker_that_reports_nonsense_is_ended(tmp_path):
    """Nothing of it is believed; its sessions are lost, and another takes its place."""
    code = """
import mprelay.uplink
put = mprelay.uplink.Queue.put
def nonsense(self, frame):
    put(self, "all is well" if any(event[:2] == (1, 1) for event in frame) else frame)
mprelay.uplink.Queue.put = nonsense
"""
    with (
        listening() as server,
        Relay(server.getsockname(), "--log-detail", "session", env=with_site(tmp_path, code), workers=1) as relay,
    ):
        with relay.connect() as client:
            assert ends_with_reset(client)
        accept(server).close()
        error = relay.wait("internal.error")
        assert (error["worker"], error["error"]) == (1, "NotEvents: a frame that is no list")
        assert relay.wait("worker.exited")["signal"] == "SIGKILL"
        assert relay.wait("session.closed")["reason"] == "worker_lost"
        relay.wait("worker.started", 2)
        with relay.connect() as client, accept(server) as target:
            echo(client, target)


def broken_supervisor(tmp_path, where):
    """An environment in which the supervisor fails at the end of a session."""
    return with_site(
        tmp_path,
        f"""
import mprelay.journal
whole = mprelay.journal.Journal.{where}
def broken(*given):
    mprelay.journal.Journal.{where} = whole
    raise ZeroDivisionError("by a test")
mprelay.journal.Journal.{where} = broken
""",
    )


def test_in_the_supervisor_it_ends_the_relay_with_70(tmp_path):
    """Every session is closed in the records, every worker ended, and the last record is the last."""
    env = broken_supervisor(tmp_path, "closed")
    with listening() as server, Relay(server.getsockname(), env=env, expect_code=70) as relay:
        with relay.connect() as one, accept(server) as target, relay.connect() as other, accept(server):
            relay.wait("session.target_channel_active", 2)
            target.close()
            one.close()
            assert relay.finish() == 70
            assert ends_with_reset(other)
        (error,) = relay.all("internal.error")
        assert (error["error"], error["worker"]) == ("ZeroDivisionError: by a test", None)
        assert relay.records[-1]["reason"] == "failed"
        assert relay.records[-1]["closed"] == {"worker_lost": 2}


def test_also_while_a_dead_worker_is_buried(tmp_path):
    """In the midst of it the worker is neither alive nor forgotten."""
    env = broken_supervisor(tmp_path, "lost")
    with (
        listening() as server,
        Relay(server.getsockname(), env=env, expect_code=70, workers=1) as relay,
        relay.connect(),
        accept(server),
    ):
        relay.wait("session.target_channel_active")
        os.kill(relay.workers()[1], signal.SIGKILL)
        assert relay.finish() == 70
        assert relay.all("internal.error")[0]["error"] == "ZeroDivisionError: by a test"
        assert relay.records[-1]["closed"] == {"worker_lost": 1}
