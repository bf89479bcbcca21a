"""The state machine: every state with every input."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.events import CloseReason
from mprelay.session import TABLE, Action, IllegalInput, Input, State, step

PAIRS = list(itertools.product(State, Input))


@pytest.mark.parametrize(("state", "happened"), PAIRS)
def test_every_pair_is_a_step_or_the_documented_error(state, happened):
    """No pair is forgotten, none does anything else."""
    if happened in TABLE[state]:
        outcome = step(state, happened)
        assert isinstance(outcome.state, State)
        assert (outcome.state is State.CLOSED) == (outcome.action in (Action.FINISH, Action.ABORT))
    else:
        with pytest.raises(IllegalInput, match=f"{happened.name} while {state.name}"):
            step(state, happened)


def test_every_input_can_happen_somewhere():
    """No dead word in the vocabulary."""
    assert {happened for row in TABLE.values() for happened in row} == set(Input)


def test_only_two_ends_of_data_finish_normally():
    """Everything else aborts, so that a cut transfer never looks complete."""
    finishing = {
        (state, happened)
        for state, row in TABLE.items()
        for happened, out in row.items()
        if out.action is Action.FINISH
    }
    assert finishing == {(State.CLIENT_ENDED, Input.TARGET_END), (State.TARGET_ENDED, Input.CLIENT_END)}


@pytest.mark.parametrize(
    ("inputs", "actions", "reason"),
    [
        ("CONNECTED CLIENT_END TARGET_END", "START CLOSE_TARGET_WRITE FINISH", "requester_read_closed"),
        ("CONNECTED TARGET_END CLIENT_END", "START CLOSE_CLIENT_WRITE FINISH", "target_read_closed"),
        ("CONNECTED CLIENT_RESET", "START ABORT", "requester_read_closed"),
        ("CONNECTED TARGET_RESET", "START ABORT", "target_read_closed"),
        ("CONNECTED CLIENT_END TARGET_RESET", "START CLOSE_TARGET_WRITE ABORT", "requester_read_closed"),
        ("CONNECTED TARGET_END CLIENT_RESET", "START CLOSE_CLIENT_WRITE ABORT", "target_read_closed"),
        ("CONNECTED CLIENT_END CLIENT_WRITE_FAILED", "START CLOSE_TARGET_WRITE ABORT", "requester_write_closed"),
        ("CONNECTED TARGET_WRITE_FAILED", "START ABORT", "target_write_closed"),
        ("CONNECTED IDLE_TIMEOUT", "START ABORT", "idle_timeout"),
        ("CONNECTED EXPIRED", "START ABORT", "relay_expired"),
        ("CONNECTED STOPPED", "START ABORT", None),
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
    """Whole lives of sessions."""
    state = State.CONNECTING
    done = []
    for name in inputs.split():
        state, action, last = step(state, Input[name])
        done.append(action.name)
    assert (done, state) == (actions.split(), State.CLOSED)
    assert last == (CloseReason(reason) if reason else None)


@given(st.lists(st.sampled_from(Input), max_size=30))
def test_a_session_finishes_at_most_once(inputs):
    """Whatever happens, in whatever order."""
    state = State.CONNECTING
    ends = 0
    for happened in inputs:
        try:
            state, action, _ = step(state, happened)
        except IllegalInput:
            continue
        ends += action in (Action.FINISH, Action.ABORT)
    assert ends == (state is State.CLOSED)
