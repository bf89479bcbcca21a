"""The state machine of one session: a table and one look-up.

Rules:

1. A session starts CONNECTING, when it has both its sockets and its buffers, and ends CLOSED. What has ended on
   the way is the state: half-close is a state, not a flag beside it.
2. Nothing is read from the client before the target is connected (CONNECTED is the only way out of
   CONNECTING that does not end the session).
3. One side's end of data is passed on as end of data (CLOSE_TARGET_WRITE, CLOSE_CLIENT_WRITE); the other
   direction goes on. When both have ended the session FINISHes: both sockets are closed in the normal way.
4. Everything else ABORTs it: both sockets are reset, so that a cut transfer never looks complete.
5. The reason names the side whose end or reset was *read first*. After a client's half-close even a reset by
   the target ends a session that the requester began to close (`error` then says ECONNRESET). A failing send
   names the side that would not take it, whatever came before.
6. A step on a pair that is not in the table raises :class:`IllegalInput` and changes nothing.

The step is pure: it tells what to do, the relay does it. Readiness is edge-triggered, so there is no interest
to compute from a state: both sockets are registered once, for everything.
"""

from enum import Enum, auto
from typing import Final, NamedTuple

from mprelay.events import CloseReason


class _Word(Enum):
    """An enum that is fast as a key: its members exist once, so identity is hash enough."""

    __hash__ = object.__hash__


class State(_Word):
    """Where a session stands."""

    CONNECTING = auto()
    RELAYING = auto()
    CLIENT_ENDED = auto()  # the client's end of data was passed on; the target may still send
    TARGET_ENDED = auto()  # the other way round
    CLOSED = auto()


class Input(_Word):
    """What can happen to a session."""

    CONNECTED = auto()
    CLIENT_END = auto()  # end of data read, everything before it delivered
    TARGET_END = auto()
    CLIENT_RESET = auto()  # an error was read from that side
    TARGET_RESET = auto()
    CLIENT_WRITE_FAILED = auto()
    TARGET_WRITE_FAILED = auto()
    CONNECT_REFUSED = auto()
    CONNECT_FAILED = auto()
    CONNECT_TIMEOUT = auto()
    IDLE_TIMEOUT = auto()
    REQUESTER_CHANNEL_FAILED = auto()
    TARGET_CHANNEL_FAILED = auto()
    REQUESTER_BUFFER_FAILED = auto()
    TARGET_BUFFER_FAILED = auto()
    EXPIRED = auto()  # the absolute timeout
    STOPPED = auto()  # told to stop by the supervisor, who knows why


class Action(_Word):
    """What the relay has to do."""

    START = auto()  # move bytes both ways
    CLOSE_TARGET_WRITE = auto()
    CLOSE_CLIENT_WRITE = auto()
    FINISH = auto()  # close both, the normal way
    ABORT = auto()  # reset both


class Step(NamedTuple):
    """The outcome of one input."""

    state: State
    action: Action
    reason: CloseReason | None = None


class IllegalInput(Exception):  # noqa: N818 - h11's and our word for it
    """An input that cannot happen in this state: a defect in the relay, never a peer's doing."""


def _abort(reason: CloseReason | None) -> Step:
    return Step(State.CLOSED, Action.ABORT, reason)


_ANY_TIME: Final = {
    Input.EXPIRED: _abort(CloseReason.RELAY_EXPIRED),
    Input.STOPPED: _abort(None),
}
_WHILE_RELAYING: Final = _ANY_TIME | {
    Input.IDLE_TIMEOUT: _abort(CloseReason.IDLE_TIMEOUT),
    Input.CLIENT_WRITE_FAILED: _abort(CloseReason.REQUESTER_WRITE_CLOSED),
    Input.TARGET_WRITE_FAILED: _abort(CloseReason.TARGET_WRITE_CLOSED),
    Input.REQUESTER_BUFFER_FAILED: _abort(CloseReason.REQUESTER_BUFFER_FAILED),
    Input.TARGET_BUFFER_FAILED: _abort(CloseReason.TARGET_BUFFER_FAILED),
}

TABLE: Final[dict[State, dict[Input, Step]]] = {
    State.CONNECTING: _ANY_TIME
    | {
        Input.CONNECTED: Step(State.RELAYING, Action.START),
        Input.CLIENT_RESET: _abort(CloseReason.REQUESTER_READ_CLOSED),
        Input.CONNECT_REFUSED: _abort(CloseReason.CONNECT_REFUSED),
        Input.CONNECT_FAILED: _abort(CloseReason.CONNECT_FAILED),
        Input.CONNECT_TIMEOUT: _abort(CloseReason.CONNECT_TIMEOUT),
        Input.REQUESTER_CHANNEL_FAILED: _abort(CloseReason.REQUESTER_CHANNEL_FAILED),
        Input.TARGET_CHANNEL_FAILED: _abort(CloseReason.TARGET_CHANNEL_FAILED),
    },
    State.RELAYING: _WHILE_RELAYING
    | {
        Input.CLIENT_END: Step(State.CLIENT_ENDED, Action.CLOSE_TARGET_WRITE),
        Input.TARGET_END: Step(State.TARGET_ENDED, Action.CLOSE_CLIENT_WRITE),
        Input.CLIENT_RESET: _abort(CloseReason.REQUESTER_READ_CLOSED),
        Input.TARGET_RESET: _abort(CloseReason.TARGET_READ_CLOSED),
    },
    State.CLIENT_ENDED: _WHILE_RELAYING
    | {
        Input.TARGET_END: Step(State.CLOSED, Action.FINISH, CloseReason.REQUESTER_READ_CLOSED),
        Input.CLIENT_RESET: _abort(CloseReason.REQUESTER_READ_CLOSED),
        Input.TARGET_RESET: _abort(CloseReason.REQUESTER_READ_CLOSED),
    },
    State.TARGET_ENDED: _WHILE_RELAYING
    | {
        Input.CLIENT_END: Step(State.CLOSED, Action.FINISH, CloseReason.TARGET_READ_CLOSED),
        Input.CLIENT_RESET: _abort(CloseReason.TARGET_READ_CLOSED),
        Input.TARGET_RESET: _abort(CloseReason.TARGET_READ_CLOSED),
    },
    State.CLOSED: {},
}


def step(state: State, happened: Input) -> Step:
    """Tell what `happened` means in `state`."""
    try:
        return TABLE[state][happened]
    except KeyError:
        raise IllegalInput(f"{happened.name} while {state.name}") from None
