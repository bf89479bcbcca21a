"""The state machine: every state with every input."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.core.lifecycle import TABLE, Action, IllegalInput, Input, State, step
from mprelay.core.protocol import CloseReason

PAIRS = list(itertools.product(State, Input))


@pytest.mark.parametrize(("state", "happened"), PAIRS)
def test_every_pair_is_a_step_or_the_documented_error(state, happened):
    """No pair is forgotten, and none does anything else."""
    if happened in TABLE[state]:
        outcome = step(state, happened)
        assert isinstance(outcome.state, State)
        assert (outcome.state is State.CLOSED) == (outcome.action in (Action.FINISH, Action.ABORT, Action.STOP))
    else:
        with pytest.raises(IllegalInput, match=f"{happened.name} while {state.name}"):
            step(state, happened)


def test_every_input_can_happen_somewhere():
    """The set of inputs has no unused member."""
    assert {happened for row in TABLE.values() for happened in row} == set(Input)


def pairs_that(action):
    """The pairs of the table with this action."""
    return {
        (state, happened) for state, row in TABLE.items() for happened, out in row.items() if out.action is action
    }


def test_only_two_ends_of_data_finish_normally():
    """Everything else aborts, so that a cut transfer never looks complete."""
    settling = {State.SETTLING, State.SETTLING_WITH_CLIENT, State.SETTLING_WITH_TARGET}
    assert pairs_that(Action.SETTLE) == {
        (State.CLIENT_ENDED, Input.TARGET_END),
        (State.TARGET_ENDED, Input.CLIENT_END),
        (State.CLIENT_GONE_AFTER_END, Input.TARGET_END),
        (State.TARGET_GONE_AFTER_END, Input.CLIENT_END),
        (State.SETTLING, Input.CLIENT_RESET),
        (State.SETTLING, Input.TARGET_RESET),
    }
    into = {out.state for row in TABLE.values() for out in row.values() if out.action is Action.SETTLE}
    assert into == settling
    assert pairs_that(Action.FINISH) == {(state, Input.ACKNOWLEDGED) for state in settling} | {
        (State.SETTLING_WITH_CLIENT, Input.CLIENT_RESET),
        (State.SETTLING_WITH_TARGET, Input.TARGET_RESET),
    }


@pytest.mark.parametrize(
    ("inputs", "actions", "reason"),
    [
        (
            "CONNECTED CLIENT_END TARGET_END ACKNOWLEDGED",
            "START CLOSE_TARGET_WRITE SETTLE FINISH",
            "requester_read_closed",
        ),
        (
            "CONNECTED TARGET_END CLIENT_END ACKNOWLEDGED",
            "START CLOSE_CLIENT_WRITE SETTLE FINISH",
            "target_read_closed",
        ),
        (
            "CONNECTED CLIENT_END TARGET_END LINGER_TIMEOUT",
            "START CLOSE_TARGET_WRITE SETTLE ABORT",
            "linger_timeout",
        ),
        (
            "CONNECTED TARGET_END CLIENT_END IDLE_TIMEOUT",
            "START CLOSE_CLIENT_WRITE SETTLE ABORT",
            "linger_timeout",
        ),
        (
            "CONNECTED CLIENT_END TARGET_END CLIENT_CUT ACKNOWLEDGED",
            "START CLOSE_TARGET_WRITE SETTLE LINGER ABORT",
            "requester_read_closed",
        ),
        (
            "CONNECTED CLIENT_END TARGET_END CLIENT_RESET CLIENT_CUT ACKNOWLEDGED",
            "START CLOSE_TARGET_WRITE SETTLE SETTLE NOTHING FINISH",
            "requester_read_closed",
        ),
        (
            "CONNECTED CLIENT_END TARGET_END CLIENT_RESET TARGET_RESET",
            "START CLOSE_TARGET_WRITE SETTLE SETTLE FINISH",
            "requester_read_closed",
        ),
        (
            "CONNECTED CLIENT_END TARGET_END TARGET_RESET CLIENT_CUT",
            "START CLOSE_TARGET_WRITE SETTLE SETTLE ABORT",
            "requester_read_closed",
        ),
        (
            "CONNECTED CLIENT_END TARGET_END STOPPED",
            "START CLOSE_TARGET_WRITE SETTLE STOP",
            "requester_read_closed",
        ),
        ("CONNECTED CLIENT_RESET ACKNOWLEDGED", "START LINGER ABORT", "requester_read_closed"),
        ("CONNECTED TARGET_RESET LINGER_TIMEOUT", "START LINGER ABORT", "target_read_closed"),
        (
            "CONNECTED CLIENT_END TARGET_RESET ACKNOWLEDGED",
            "START CLOSE_TARGET_WRITE LINGER ABORT",
            "requester_read_closed",
        ),
        (
            "CONNECTED TARGET_END CLIENT_RESET TARGET_CUT",
            "START CLOSE_CLIENT_WRITE LINGER ABORT",
            "target_read_closed",
        ),
        (
            "CONNECTED CLIENT_END CLIENT_WRITE_FAILED ACKNOWLEDGED",
            "START CLOSE_TARGET_WRITE LINGER ABORT",
            "requester_write_closed",
        ),
        (
            "CONNECTED TARGET_WRITE_FAILED TARGET_RESET ACKNOWLEDGED",
            "START DRAIN_TARGET LINGER ABORT",
            "target_write_closed",
        ),
        ("CONNECTED TARGET_CUT CLIENT_WRITE_FAILED", "START DRAIN_TARGET ABORT", "target_read_closed"),
        (
            "CONNECTED CLIENT_CUT CLIENT_RESET IDLE_TIMEOUT",
            "START DRAIN_CLIENT LINGER ABORT",
            "requester_read_closed",
        ),
        (
            "CONNECTED CLIENT_END CLIENT_CUT TARGET_END ACKNOWLEDGED",
            "START CLOSE_TARGET_WRITE AWAIT_TARGET_END SETTLE FINISH",
            "requester_read_closed",
        ),
        (
            "CONNECTED TARGET_END TARGET_CUT TARGET_WRITE_FAILED ACKNOWLEDGED",
            "START CLOSE_CLIENT_WRITE AWAIT_CLIENT_END LINGER ABORT",
            "target_read_closed",
        ),
        (
            "CONNECTED CLIENT_END CLIENT_CUT LINGER_TIMEOUT ACKNOWLEDGED",
            "START CLOSE_TARGET_WRITE AWAIT_TARGET_END LINGER ABORT",
            "requester_read_closed",
        ),
        (
            "CLIENT_CUT CONNECTED CLIENT_RESET ACKNOWLEDGED",
            "DRAIN_CLIENT START LINGER ABORT",
            "requester_read_closed",
        ),
        ("CLIENT_CUT CONNECT_REFUSED", "DRAIN_CLIENT ABORT", "requester_read_closed"),
        ("CONNECTED CLIENT_CUT EXPIRED", "START DRAIN_CLIENT ABORT", "relay_expired"),
        ("CONNECTED IDLE_TIMEOUT", "START ABORT", "idle_timeout"),
        ("CONNECTED EXPIRED", "START ABORT", "relay_expired"),
        ("CONNECTED STOPPED", "START STOP", None),
        ("CONNECT_TIMEOUT", "ABORT", "connect_timeout"),
        ("CONNECT_REFUSED", "ABORT", "connect_refused"),
        ("CONNECT_FAILED", "ABORT", "connect_failed"),
        ("CLIENT_RESET", "ABORT", "requester_read_closed"),
        ("REQUESTER_CHANNEL_FAILED", "ABORT", "requester_channel_failed"),
        ("TARGET_CHANNEL_FAILED", "ABORT", "target_channel_failed"),
        ("CONNECTED REQUESTER_BUFFER_FAILED", "START ABORT", "requester_buffer_failed"),
        ("CONNECTED TARGET_BUFFER_FAILED", "START ABORT", "target_buffer_failed"),
    ],
)
def test_transcripts(inputs, actions, reason):
    """Each transcript is a session from beginning to end."""
    state = State.CONNECTING
    done, last = [], None
    for name in inputs.split():
        state, action, given = step(state, Input[name])
        done.append(action.name)
        last = given or last
    assert (done, state) == (actions.split(), State.CLOSED)
    assert last == (CloseReason(reason) if reason else None)


@pytest.mark.parametrize("state", [state for state in State if state is not State.CLOSED])
def test_every_state_can_be_forced_to_an_end(state):
    """Expiry and stop can close any session."""
    assert step(state, Input.EXPIRED) == (State.CLOSED, Action.ABORT, CloseReason.RELAY_EXPIRED)
    assert step(state, Input.KILLED) == (State.CLOSED, Action.ABORT, None)
    assert step(state, Input.STOPPED) == (State.CLOSED, Action.STOP, None)


def test_the_two_sides_are_treated_alike():
    """The table is its own mirror image, except for the names of the reasons."""

    def mirrored(name):
        swap = {"CLIENT": "TARGET", "TARGET": "CLIENT", "REQUESTER": "TARGET"}
        return "_".join(swap.get(word, word) for word in name.split("_"))

    sides = [s for s in State if s.name not in ("CONNECTING", "CLIENT_GONE_EARLY", "CLOSED")]
    for state, happened in itertools.product(sides, Input):
        if happened.name.startswith(("REQUESTER_BUFFER", "TARGET_BUFFER")):
            continue
        other = (
            TABLE[State[mirrored(state.name)]].get(Input[mirrored(happened.name)])
            if (mirrored(happened.name) in Input.__members__)
            else None
        )
        here = TABLE[state].get(happened)
        assert (here is None) == (other is None), (state, happened)
        if here is not None:
            assert mirrored(here.action.name) == other.action.name
            assert mirrored(here.state.name) == other.state.name


@given(st.lists(st.sampled_from(Input), max_size=30))
def test_a_session_finishes_at_most_once(inputs):
    """This holds for any inputs in any order."""
    state = State.CONNECTING
    ends = 0
    for happened in inputs:
        try:
            state, action, _ = step(state, happened)
        except IllegalInput:
            continue
        ends += action in (Action.FINISH, Action.ABORT, Action.STOP)
    assert ends == (state is State.CLOSED)
