"""The phases of a run: a table and one look-up.

Rules:

1. A run is STARTING until every worker and the outlet are ready, ACTIVE while it accepts, DRAINING while
   sessions may finish, ENDING while the workers end their sessions by force, and OVER when no worker is left.
2. The first happening that ends a run decides its stop reason, and the reason of the sessions that are ended by
   force. Later happenings change neither, except an unexpected exception.
3. The exit code is that of the last failure. The run reports a lost stdout last, so without stdout it is 74.
4. A step on a pair that is not in the table raises :class:`IllegalHappening` and changes nothing.

The step is pure. It tells the run what to do.
"""

from enum import Enum, auto
from typing import Final, Literal, NamedTuple, TypeAlias

from mprelay.core.exits import Exit
from mprelay.core.protocol import CloseReason

StopReason: TypeAlias = Literal["expired", "drained", "signal", "failed", "idle"]


class Phase(Enum):
    """What a run is doing."""

    STARTING = auto()
    ACTIVE = auto()
    DRAINING = auto()
    ENDING = auto()
    OVER = auto()

    __hash__ = object.__hash__  # Enum's own is a Python function


class Happening(Enum):
    """What can happen to a run."""

    ALL_READY = auto()  # every worker, and the outlet
    SIGNAL = auto()  # a stop signal, or an operator's order
    STDOUT_GONE = auto()  # no reader takes the records any more
    DRAIN_TIMEOUT = auto()
    NO_SESSION_LEFT = auto()
    EXPIRED = auto()  # the absolute timeout
    IDLE = auto()  # no session for as long as the user wants to wait for one
    NO_WORKER_LEFT = auto()
    LISTENER_FAILED = auto()  # messages 11 to 13
    POOL_FAILED = auto()  # message 14
    PLATFORM_FAILED = auto()  # messages 1, 9 and 10
    PARAMETER_FAILED = auto()  # only its use has shown that it is wrong
    CRASHED = auto()  # an unexpected exception

    __hash__ = object.__hash__


class Action(Enum):
    """What a step tells the run to do."""

    SERVE = auto()  # open the door
    DRAIN = auto()  # close the door; let sessions finish
    EXPIRE = auto()  # close the door; record the expiry; end all sessions
    END = auto()  # close the door; end all sessions
    HURRY = auto()  # stop waiting for the reader of the records
    NOTHING = auto()


class Ending(NamedTuple):
    """How a run ends."""

    stop_reason: StopReason
    session_end: CloseReason  # of the sessions that are ended by force
    exit_code: Exit


class Step(NamedTuple):
    """The outcome of one happening. A part of the ending that is None stays as it is."""

    phase: Phase
    action: Action = Action.NOTHING
    stop_reason: StopReason | None = None
    session_end: CloseReason | None = None
    exit_code: Exit | None = None


class IllegalHappening(Exception):  # noqa: N818 - as lifecycle.IllegalInput
    """It cannot happen in this phase: the supervisor has a defect."""


_END_STEP: Final = Step(Phase.ENDING, Action.END)
_EXPIRY_STEP: Final = Step(Phase.ENDING, Action.EXPIRE, "expired", CloseReason.RELAY_EXPIRED)
_CUT_SHORT_STEP: Final = _END_STEP._replace(stop_reason="signal", session_end=CloseReason.DRAINED)
_DRAIN_STEP: Final = Step(Phase.DRAINING, Action.DRAIN)
_FAILURE_CODES: Final = {
    Happening.LISTENER_FAILED: Exit.UNAVAILABLE,
    Happening.POOL_FAILED: Exit.SOFTWARE,
    Happening.PLATFORM_FAILED: Exit.OSERR,
    Happening.PARAMETER_FAILED: Exit.USAGE,
}
_CRASH_ROW: Final = {
    Happening.CRASHED: Step(
        Phase.OVER,
        stop_reason="failed",
        session_end=CloseReason.WORKER_LOST,
        exit_code=Exit.SOFTWARE,
    )
}
_ROW_BEFORE_THE_END: Final = _CRASH_ROW | {
    Happening.EXPIRED: _EXPIRY_STEP,
    **{
        failure: _END_STEP._replace(stop_reason="failed", session_end=CloseReason.WORKER_LOST, exit_code=code)
        for failure, code in _FAILURE_CODES.items()
    },
}
_ROW_BEFORE_DRAINING: Final = _ROW_BEFORE_THE_END | {
    Happening.SIGNAL: _DRAIN_STEP,
    Happening.STDOUT_GONE: _DRAIN_STEP._replace(exit_code=Exit.IOERR),
}


def _at_the_end(phase: Phase) -> dict[Happening, Step]:
    """Make the row of a phase in which the ending is already decided."""
    return _CRASH_ROW | {
        Happening.SIGNAL: Step(phase, Action.HURRY),
        Happening.STDOUT_GONE: Step(phase, exit_code=Exit.IOERR),
        Happening.EXPIRED: Step(phase),
        **{failure: Step(phase, exit_code=code) for failure, code in _FAILURE_CODES.items()},
    }


TABLE: Final[dict[Phase, dict[Happening, Step]]] = {
    Phase.STARTING: _ROW_BEFORE_DRAINING | {Happening.ALL_READY: Step(Phase.ACTIVE, Action.SERVE)},
    Phase.ACTIVE: _ROW_BEFORE_DRAINING | {Happening.IDLE: _END_STEP._replace(stop_reason="idle")},
    Phase.DRAINING: _ROW_BEFORE_THE_END
    | {
        Happening.SIGNAL: _CUT_SHORT_STEP,
        Happening.DRAIN_TIMEOUT: _CUT_SHORT_STEP,
        Happening.NO_SESSION_LEFT: _END_STEP._replace(stop_reason="drained", session_end=CloseReason.DRAINED),
        Happening.STDOUT_GONE: Step(Phase.DRAINING, exit_code=Exit.IOERR),
    },
    Phase.ENDING: _at_the_end(Phase.ENDING) | {Happening.NO_WORKER_LEFT: Step(Phase.OVER)},
    Phase.OVER: _at_the_end(Phase.OVER),
}


def step(phase: Phase, happening: Happening) -> Step:
    """Look up the step that `happening` makes in `phase`. Raises IllegalHappening."""
    try:
        return TABLE[phase][happening]
    except KeyError:
        raise IllegalHappening(f"{happening.name} while {phase.name}") from None


class RunState:
    """Phase and ending of one run. Every part of the supervisor reads them; only the run changes them."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.ending = Ending("failed", CloseReason.WORKER_LOST, Exit.OK)

    def advance(self, happening: Happening) -> Action:
        """Make the step of `happening`; return what the run has to do."""
        step_ = step(self.phase, happening)
        before = self.ending
        self.ending = Ending(
            step_.stop_reason or before.stop_reason,
            step_.session_end or before.session_end,
            before.exit_code if step_.exit_code is None else step_.exit_code,
        )
        self.phase = step_.phase
        return step_.action
