"""Sockets are handed over by a pipe of multiprocessing, as on Windows, with the rest of the relay as on Linux."""

import contextlib
import os
import signal

import psutil
import pytest
from support.patches import PIPE_HAND_OVER, with_site
from support.peers import accept, echo, ends_with_reset, knock, listening, port_of, receive
from support.relay import Relay, open_sessions
from support.waiting import eventually

pytestmark = pytest.mark.posix("Linux made to do what Windows does")


@pytest.fixture
def by_pipe(tmp_path):
    """An environment whose relays hand over by a pipe."""
    return with_site(tmp_path, PIPE_HAND_OVER)


def test_all_sessions_of_a_burst_are_relayed(by_pipe):
    """The last one above the limit is refused. A message carries many sockets."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--max-sessions", "200", workers=4, env=by_pipe) as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 200)
        for client, target in made:
            echo(client, target)
        assert psutil.Process(relay.process.pid).num_threads() == 2, "the other thread is the server of `sharing`"
        assert knock(("127.0.0.1", relay.port)).reset
        relay.wait("connection.pool_exhausted")
        assert {record["worker"] for record in relay.all("session.allocated")} == {1, 2, 3, 4}
        for client, target in made:
            client.close()
            assert receive(target) == b""
            target.close()
        relay.wait("session.closed", 200)
        assert {record["reason"] for record in relay.all("session.closed")} == {"requester_read_closed"}


def test_a_worker_is_killed_and_replaced(by_pipe):
    """Its sessions are lost, with what was handed over and never taken, and no others."""
    with (
        listening() as server,
        Relay(server.getsockname(), env=by_pipe) as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 8)
        victims = relay.held_by(1)
        os.kill(relay.workers()[1], signal.SIGKILL)
        relay.wait("session.closed", len(victims))
        for client, target in made:
            if port_of(client) in victims:
                assert ends_with_reset(client)
                assert ends_with_reset(target)
            else:
                echo(client, target)
        relay.wait("worker.started", 2, worker=1)
        echo(stack.enter_context(relay.connect()), stack.enter_context(accept(server)))


def test_a_supervisor_that_is_killed_takes_its_workers_along(by_pipe):
    """The end of the pipe tells them."""
    with (
        listening() as server,
        Relay(server.getsockname(), env=by_pipe, expect_code=None) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        workers = relay.workers().values()
        relay.killed = True
        relay.process.kill()
        assert ends_with_reset(client)
        assert ends_with_reset(target)
        eventually(lambda: not any(map(psutil.pid_exists, workers)), "their end")
