"""The run's table: every phase with every happening."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.core.exits import Exit
from mprelay.core.phases import TABLE, Action, Ending, Happening, IllegalHappening, Phase, RunState, step
from mprelay.core.protocol import CloseReason


def after(*happenings):
    """A run after these happenings, and its last action."""
    state = RunState()
    action = Action.NOTHING
    for happening in happenings:
        action = state.advance(happening)
    return state, action


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("happening", Happening)
def test_each_pair_is_known_or_the_documented_error(phase, happening):
    """An illegal happening changes nothing."""
    if happening in TABLE[phase]:
        assert step(phase, happening) is TABLE[phase][happening]
        return
    state = RunState()
    state.phase = phase
    before = state.ending
    with pytest.raises(IllegalHappening, match=f"{happening.name} while {phase.name}"):
        state.advance(happening)
    assert (state.phase, state.ending) == (phase, before)


@pytest.mark.parametrize("phase", Phase)
def test_happenings_from_outside_are_legal_at_any_time(phase):
    """They are a signal, the end of stdout, the absolute timeout and a failure."""
    inside = {
        Happening.ALL_READY,
        Happening.DRAIN_TIMEOUT,
        Happening.IDLE,
        Happening.NO_SESSION_LEFT,
        Happening.NO_WORKER_LEFT,
    }
    assert set(Happening) - inside <= set(TABLE[phase])


ENDINGS = {
    "expired": ((Happening.ALL_READY, Happening.EXPIRED), ("expired", CloseReason.RELAY_EXPIRED, Exit.OK)),
    "expired while draining": (
        (Happening.ALL_READY, Happening.SIGNAL, Happening.EXPIRED),
        ("expired", CloseReason.RELAY_EXPIRED, Exit.OK),
    ),
    "idle": ((Happening.ALL_READY, Happening.IDLE), ("idle", CloseReason.WORKER_LOST, Exit.OK)),
    "drained": ((Happening.SIGNAL, Happening.NO_SESSION_LEFT), ("drained", CloseReason.DRAINED, Exit.OK)),
    "cap": ((Happening.SIGNAL, Happening.DRAIN_TIMEOUT), ("signal", CloseReason.DRAINED, Exit.OK)),
    "second signal": ((Happening.SIGNAL, Happening.SIGNAL), ("signal", CloseReason.DRAINED, Exit.OK)),
    "stdout": ((Happening.STDOUT_GONE, Happening.NO_SESSION_LEFT), ("drained", CloseReason.DRAINED, Exit.IOERR)),
    "stdout at the end": (
        (Happening.EXPIRED, Happening.STDOUT_GONE),
        ("expired", CloseReason.RELAY_EXPIRED, Exit.IOERR),
    ),
    "no listener": ((Happening.LISTENER_FAILED,), ("failed", CloseReason.WORKER_LOST, Exit.UNAVAILABLE)),
    "no workers": (
        (Happening.ALL_READY, Happening.POOL_FAILED),
        ("failed", CloseReason.WORKER_LOST, Exit.SOFTWARE),
    ),
    "parameter": ((Happening.PARAMETER_FAILED,), ("failed", CloseReason.WORKER_LOST, Exit.USAGE)),
    "platform": ((Happening.PLATFORM_FAILED,), ("failed", CloseReason.WORKER_LOST, Exit.OSERR)),
    "first cause": (
        (Happening.EXPIRED, Happening.SIGNAL, Happening.EXPIRED),
        ("expired", CloseReason.RELAY_EXPIRED, Exit.OK),
    ),
    "crash": (
        (Happening.ALL_READY, Happening.EXPIRED, Happening.CRASHED),
        ("failed", CloseReason.WORKER_LOST, Exit.SOFTWARE),
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_how_a_run_ends(name):
    """The first happening decides the reason, and the worst one the exit code."""
    happenings, ending = ENDINGS[name]
    assert after(*happenings)[0].ending == Ending(*ending)


def test_the_whole_course_of_a_run():
    """Start, serve, drain, end, over."""
    state = RunState()
    told = [
        (state.phase, state.advance(happening))
        for happening in (
            Happening.ALL_READY,
            Happening.SIGNAL,
            Happening.DRAIN_TIMEOUT,
            Happening.SIGNAL,
            Happening.NO_WORKER_LEFT,
        )
    ]
    assert told == [
        (Phase.STARTING, Action.SERVE),
        (Phase.ACTIVE, Action.DRAIN),
        (Phase.DRAINING, Action.END),
        (Phase.ENDING, Action.HURRY),
        (Phase.ENDING, Action.NOTHING),
    ]
    assert state.phase is Phase.OVER


@given(st.lists(st.sampled_from(Happening), max_size=30))
def test_no_run_goes_back(happenings):
    """Phases follow in their order, and the action to end is never given twice."""
    state = RunState()
    order = list(Phase)
    ends = 0
    for happening in happenings:
        before = state.phase
        try:
            action = state.advance(happening)
        except IllegalHappening:
            assert state.phase is before
            continue
        assert order.index(state.phase) >= order.index(before)
        ends += action in {Action.END, Action.EXPIRE}
    assert ends <= 1
