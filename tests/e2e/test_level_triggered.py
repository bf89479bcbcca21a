"""The relay waits by select(2), as on Windows, with the rest of it as on Linux. It keeps the same promises.

Most tests are those of other files, run once more with the other poller.
"""

import contextlib
import json
import os
import signal
import socket

import pytest
from e2e import (
    test_admission,
    test_ending,
    test_half_close,
    test_outlet,
    test_programs,
    test_relaying,
    test_timeouts,
    test_workers,
)
from slow.test_many import nobody_wakes
from support.launching import run
from support.patches import (
    IN_CHILDREN,
    PIPE_HAND_OVER,
    SELECT_POLLER,
    SESSIONS_PER_WORKER,
    assigned,
    with_site,
)
from support.peers import accept, echo, listening, port_of, receive
from support.processes import links
from support.relay import Relay, open_sessions

pytestmark = pytest.mark.posix("another poller than its own")

AGAIN = {
    test_relaying: (
        "a_client_that_resets_before_the_target_is_connected_frees_its_slot_at_once",
        "a_peer_that_does_not_read_stops_the_other",
        "a_target_that_accepts_and_resets_was_connected",
        "a_target_that_refuses",
        "a_target_that_sends_for_ever_after_the_client_has_ended",
        "byte_counts_are_exact",
        "clients_that_leave_at_once",
        "early_bytes_of_a_client_all_arrive_and_none_is_read_before_the_target_is_connected",
        "tcp_urgent_bytes_stay_in_their_place",
        "the_bytes_of_a_client_that_ends_before_the_target_is_connected_are_delivered",
        "the_server_speaks_first",
        "write_then_close_by_the_client_loses_nothing",
        "write_then_close_by_the_target_loses_nothing",
    ),
    test_half_close: (
        "a_client_that_is_killed_in_mid_download_is_not_a_normal_end",
        "a_last_word_arrives_every_time",
        "a_reset_after_both_ends_of_data_is_a_normal_end",
        "an_upload_that_was_left_unread_is_not_a_normal_end",
        "both_reset",
        "bytes_stuck_behind_a_slow_reader_arrive_before_the_reset",
        "client_half_closes_and_the_late_answer_arrives_whole",
        "client_resets_and_the_target_sees_a_reset",
        "no_session_of_early_ends_hangs",
        "target_half_closes_and_the_late_upload_arrives_whole",
        "target_resets_and_the_client_sees_a_reset",
        "the_bytes_of_a_client_that_resets_before_the_target_is_connected_are_delivered",
        "the_greeting_of_a_target_that_resets_at_once_is_delivered",
    ),
    test_timeouts: (
        "activity_in_one_direction_keeps_a_session_alive",
        "connect_timeout",
        "connect_timeout_does_not_hit_an_established_quiet_session",
        "idle_timeout_of_a_half_closed_session",
        "idle_timeout_with_data_stuck_behind_a_peer_that_does_not_read",
        "idle_timeout_without_data",
    ),
    test_ending: (
        "a_killed_supervisor_leaves_no_session_and_no_worker",
        "drain_has_a_cap",
        "expiry_ends_everything_within_a_second",
        "expiry_with_peers_that_do_not_read_and_with_quiet_ones",
        "second_signal_cuts_the_drain_short",
        "signal_drains",
        "signal_while_starting",
    ),
    test_admission: (
        "a_pool_serves_as_many_clients_as_it_has_slots",
        "exactly_500_of_520_get_in_and_then_one_for_each_that_leaves",
        "after_a_stalled_log_only_clients_that_still_wait_are_admitted",
    ),
    test_workers: (
        "a_killed_worker_is_replaced_again_and_again",
        "a_killed_worker_loses_its_own_sessions_and_no_other",
        "a_worker_that_dies_in_a_bulk_transfer",
        "a_worker_that_dies_while_it_connects",
        "sessions_go_on_while_the_supervisor_is_stopped",
    ),
    test_programs: (
        "100_mb_down_and_up_at_once",
        "many_curls_at_once",
        "socat_answers_after_a_half_close",
        "socat_asks_and_half_closes",
    ),
    test_outlet: (
        "a_killed_outlet_is_the_end_of_stdout",
        "the_readers_of_both_streams_are_gone",
    ),
}
for module, names in AGAIN.items():
    globals().update({f"test_{name}": getattr(module, f"test_{name}") for name in names})
big, curl, nginx = test_programs.big, test_programs.curl, test_programs.nginx


@pytest.fixture(autouse=True)
def _by_select(tmp_path_factory, monkeypatch):
    """Every Python that the test starts has the other poller."""
    environment = with_site(tmp_path_factory.mktemp("site"), SELECT_POLLER)
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])


def test_the_other_poller_is_the_one_that_waits():
    """Otherwise this file would show nothing."""
    with listening() as server, Relay(server.getsockname()) as relay:
        for process in (relay.process, *relay.family()):
            files = links(process.pid).values()
            assert files
            assert "anon_inode:[eventpoll]" not in files


@pytest.mark.alone("wake-ups")
def test_sessions_in_any_state_wake_nobody():
    """They are idle, half-closed, or stuck behind a peer that does not read."""
    options = ("--stats-interval", "0", "--idle-timeout", "1800")
    with listening() as server, Relay(server.getsockname(), *options) as relay, contextlib.ExitStack() as stack:
        made = open_sessions(stack, relay, server, 12)
        for client, target in made[3:6]:
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == b""
        for client, target in made[6:9]:
            target.shutdown(socket.SHUT_WR)
            assert receive(client) == b""
        for client, target in made[9:]:
            for source in (client, target):
                source.settimeout(0.5)
                with contextlib.suppress(TimeoutError):
                    while True:
                        source.sendall(bytes(1 << 20))
        nobody_wakes(relay)
        for client, target in made[:3]:
            echo(client, target)
        client, target = made[3]
        target.sendall(b"late")
        assert receive(client, 4) == b"late"


def test_sockets_handed_over_by_a_pipe_as_well(tmp_path):
    """Both are then as on Windows."""
    env = with_site(tmp_path, PIPE_HAND_OVER + SELECT_POLLER)
    options = ("--max-sessions", "200")
    with (
        listening() as server,
        Relay(server.getsockname(), *options, workers=4, env=env) as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 200)
        for client, target in made:
            echo(client, target)
        assert relay.knock().reset
        victims = relay.held_by(1)
        os.kill(relay.workers()[1], signal.SIGKILL)
        relay.wait("session.closed", len(victims), reason="worker_lost")
        relay.wait("worker.started", 2, worker=1)
        for client, target in made:
            if port_of(client) not in victims:
                echo(client, target)
        echo(stack.enter_context(relay.connect()), stack.enter_context(accept(server)))


# -- a worker holds only so many sessions --------------------------------------------------------------------


def limited(directory, code=""):
    """An environment in which a worker holds three sessions."""
    return with_site(directory, f"{SELECT_POLLER}\n{assigned(SESSIONS_PER_WORKER, '3')}\n{code}")


def test_while_a_worker_is_missing_and_the_others_are_full_clients_wait(tmp_path):
    """There are slots, so nobody is refused. The replacement serves those who waited."""
    hold = tmp_path / "hold"
    code = f"import time\n{IN_CHILDREN}while os.path.exists({str(hold)!r}): time.sleep(0.01)"
    with (
        listening() as server,
        Relay(server.getsockname(), "--max-sessions", "6", env=limited(tmp_path, code)) as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 6)
        assert [len(relay.held_by(worker)) for worker in (1, 2)] == [3, 3]
        assert relay.knock().reset
        relay.wait("connection.pool_exhausted")
        victims = relay.held_by(1)
        hold.touch()
        os.kill(relay.workers()[1], signal.SIGKILL)
        relay.wait("session.closed", 3, reason="worker_lost")
        attempts = len(relay.all("connection.attempt"))
        waiting = [stack.enter_context(relay.connect()) for _ in range(3)]
        left = [(client, target) for client, target in made if port_of(client) not in victims]
        for client, target in left:
            echo(client, target)
        assert len(relay.all("connection.attempt")) == attempts
        hold.unlink()
        for _ in waiting:
            stack.enter_context(accept(server)).sendall(b"served")
        for client in waiting:
            assert receive(client, 6) == b"served"
        assert len(relay.all("connection.pool_exhausted")) == 1
        relay.wait("session.allocated", 9)  # the records come after the bytes
        assert {port_of(client) for client in waiting} <= relay.held_by(1)
        client, target = left[0]
        client.close()
        target.close()
        relay.wait("session.closed", 4)
        echo(stack.enter_context(relay.connect()), stack.enter_context(accept(server)))


def test_the_number_of_workers_follows_from_that_of_the_sessions(tmp_path):
    """By default it rises. A number that is too small is refused, with the arithmetic."""
    env = limited(tmp_path)
    with listening() as server, Relay(server.getsockname(), "--max-sessions", "18", workers=6, env=env) as relay:
        assert relay.wait("relay.active")["workers"] == 6
    refused = run("8080", "127.0.0.1", "9", "ANY", "--workers", "5", "--max-sessions", "18", env=env)
    assert refused.returncode == 2
    (record,) = map(json.loads, refused.stdout.splitlines())
    assert (record["event"], record["parameter"], record["value"]) == ("config.invalid", "workers", "5")
    assert record["message"] == (
        "Error: --workers '5' must be at least 6: each worker holds at most 3 sessions, which makes 15, "
        "not the 18 of --max-sessions."
    )
    shown = run("--help", env=env)
    assert "(1..64; default 64)" in " ".join(shown.stdout.decode().split())
