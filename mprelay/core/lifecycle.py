"""The state machine of one session: a table and one look-up.

Rules:

1. A session starts CONNECTING, when it has both its sockets and its buffers, and ends CLOSED. What has ended on
   the way is the state: half-close is a state, not a flag beside it.
2. Nothing is read from the client before the target is connected: only CONNECTED leads to a state in which bytes
   move.
3. One side's end of data is passed on as end of data (CLOSE_TARGET_WRITE, CLOSE_CLIENT_WRITE); the other
   direction goes on. When both have ended the session SETTLEs: it keeps its slot until both have acknowledged all
   that they were sent. Then it FINISHes: both sockets are closed in the normal way. Otherwise clients that never
   read would leave their data in the kernel, without a bound.
4. A reset ends the direction *towards* its sender at once. The other direction is read to its end, because the
   kernel keeps what came before a reset (tcp_reset purges the send queue, not the receive queue). When that is
   delivered the session LINGERs until the survivor's kernel has acknowledged it, and only then ABORTs.
5. A reset that follows its sender's own end of data is a cut only if something could still not be delivered. TLS
   clients close before they have read the server's last alert. So the session AWAITs the other side's end for a
   moment: if that comes, and nothing before it, everything was delivered and the session SETTLEs. The same holds
   for a side that resets while the session settles: it is not waited for any more.
6. Everything else ABORTs the session: both sockets are reset, so that a cut transfer never looks complete.
7. The reason is what happened first. A step without a reason keeps the one before it. There are two exceptions.
   A failed send names the side that did not take it, unless a reset came before. A session that the relay ends
   after a half-close is recorded with the relay's reason.
8. A step on a pair that is not in the table raises :class:`IllegalInput` and changes nothing.

The step is pure: it tells the session what to do. Readiness is edge-triggered, so there is no interest to compute
from a state: both sockets are registered once, for everything.
"""

from enum import Enum, auto
from typing import Final, NamedTuple

from mprelay.core.protocol import CloseReason


class _Word(Enum):
    """An enum that is fast as a key: its members exist once, so identity is hash enough."""

    __hash__ = object.__hash__


class State(_Word):
    """Where a session stands."""

    CONNECTING = auto()
    CLIENT_GONE_EARLY = auto()  # the client has reset; what it said waits for the target to be connected
    RELAYING = auto()
    CLIENT_ENDED = auto()  # the client's end of data was passed on; the target may still send
    TARGET_ENDED = auto()  # the other way round
    CLIENT_GONE = auto()  # the client has reset; what it said before is still being delivered
    TARGET_GONE = auto()
    CLIENT_GONE_AFTER_END = auto()  # the client has ended, then reset; the target may have nothing more to say
    TARGET_GONE_AFTER_END = auto()
    LINGERING_FOR_TARGET = auto()  # all is sent; the target's kernel has not acknowledged it yet
    LINGERING_FOR_CLIENT = auto()
    SETTLING = auto()  # both have ended; they have not acknowledged everything yet
    SETTLING_WITH_TARGET = auto()  # only the target has not: the client has everything, and has reset
    SETTLING_WITH_CLIENT = auto()
    CLOSED = auto()


class Input(_Word):
    """What can happen to a session."""

    CONNECTED = auto()
    CLIENT_END = auto()  # end of data read, everything before it delivered
    TARGET_END = auto()
    CLIENT_RESET = auto()  # an error was read from that side, everything before it delivered
    TARGET_RESET = auto()
    CLIENT_CUT = auto()  # an error of that side, met in another way: what came before it may still be unread
    TARGET_CUT = auto()
    CLIENT_WRITE_FAILED = auto()
    TARGET_WRITE_FAILED = auto()
    ACKNOWLEDGED = auto()  # the kernels of those that are still there have everything
    LINGER_TIMEOUT = (
        auto()
    )  # nothing moved for the linger time, or no end came in the moment that is waited for it
    CONNECT_REFUSED = auto()
    CONNECT_FAILED = auto()
    CONNECT_TIMEOUT = auto()
    IDLE_TIMEOUT = auto()
    REQUESTER_CHANNEL_FAILED = auto()
    TARGET_CHANNEL_FAILED = auto()
    TARGET_SOCKET_FAILED = auto()  # there is none to try the target's next address with
    REQUESTER_BUFFER_FAILED = auto()
    TARGET_BUFFER_FAILED = auto()
    EXPIRED = auto()  # the absolute timeout
    KILLED = auto()  # told to end this session by the supervisor, who has given the reason
    STOPPED = auto()  # told to stop by the supervisor, who knows why


class Action(_Word):
    """What the relay has to do."""

    START = auto()  # move bytes both ways
    CLOSE_TARGET_WRITE = auto()
    CLOSE_CLIENT_WRITE = auto()
    DRAIN_CLIENT = auto()  # send the client nothing more; deliver what it has said, once the target is connected
    DRAIN_TARGET = auto()
    AWAIT_TARGET_END = auto()  # see for a moment whether the target ends with nothing more to say
    AWAIT_CLIENT_END = auto()
    LINGER = auto()  # move nothing more; wait for the survivor's acknowledgement
    SETTLE = auto()  # end both; wait for their acknowledgement
    FINISH = auto()  # close both, the normal way
    ABORT = auto()  # reset both
    STOP = auto()  # reset both, for the supervisor's reason
    NOTHING = auto()


class Step(NamedTuple):
    """The outcome of one input. `reason` None: the reason stays as it is."""

    state: State
    action: Action
    reason: CloseReason | None = None


class IllegalInput(Exception):  # noqa: N818 - h11's and our word for it
    """An input that cannot happen in this state: a defect in the relay, never a peer's doing."""


def _abort(reason: CloseReason | None = None) -> Step:
    return Step(State.CLOSED, Action.ABORT, reason)


_ANY_TIME: Final = {
    Input.EXPIRED: _abort(CloseReason.RELAY_EXPIRED),
    Input.KILLED: _abort(),
    Input.STOPPED: Step(State.CLOSED, Action.STOP),
}
_WHILE_RELAYING: Final = _ANY_TIME | {
    Input.IDLE_TIMEOUT: _abort(CloseReason.IDLE_TIMEOUT),
    Input.REQUESTER_BUFFER_FAILED: _abort(CloseReason.REQUESTER_BUFFER_FAILED),
    Input.TARGET_BUFFER_FAILED: _abort(CloseReason.TARGET_BUFFER_FAILED),
}
_WHILE_ENDING: Final = _ANY_TIME | {
    # The reason is known already. Without memory for what the survivor does not take, nothing can be delivered.
    Input.IDLE_TIMEOUT: _abort(),
    Input.LINGER_TIMEOUT: _abort(),
    Input.REQUESTER_BUFFER_FAILED: _abort(),
    Input.TARGET_BUFFER_FAILED: _abort(),
}


def _gone(state: State, cut: Input) -> dict[Input, Step]:
    """Make the row of what a side that is gone already may still give: another error, which changes nothing."""
    return _WHILE_ENDING | {cut: Step(state, Action.NOTHING)}


_FINISH: Final = Step(State.CLOSED, Action.FINISH)
_SETTLE: Final = Step(State.SETTLING, Action.SETTLE)
_SETTLE_WITH_TARGET: Final = Step(State.SETTLING_WITH_TARGET, Action.SETTLE)
_SETTLE_WITH_CLIENT: Final = Step(State.SETTLING_WITH_CLIENT, Action.SETTLE)
_WHILE_SETTLING: Final = _ANY_TIME | {
    Input.ACKNOWLEDGED: _FINISH,
    Input.LINGER_TIMEOUT: _abort(CloseReason.LINGER_TIMEOUT),
    Input.IDLE_TIMEOUT: _abort(CloseReason.LINGER_TIMEOUT),
}
_LINGER_FOR_TARGET: Final = Step(State.LINGERING_FOR_TARGET, Action.LINGER)
_LINGER_FOR_CLIENT: Final = Step(State.LINGERING_FOR_CLIENT, Action.LINGER)
_CLIENT_GONE: Final = Step(State.CLIENT_GONE, Action.DRAIN_CLIENT)
_TARGET_GONE: Final = Step(State.TARGET_GONE, Action.DRAIN_TARGET)

TABLE: Final[dict[State, dict[Input, Step]]] = {
    State.CONNECTING: _ANY_TIME
    | {
        Input.CONNECTED: Step(State.RELAYING, Action.START),
        Input.CLIENT_RESET: _abort(CloseReason.REQUESTER_READ_CLOSED),
        Input.CLIENT_CUT: Step(State.CLIENT_GONE_EARLY, Action.DRAIN_CLIENT, CloseReason.REQUESTER_READ_CLOSED),
        Input.CONNECT_REFUSED: _abort(CloseReason.CONNECT_REFUSED),
        Input.CONNECT_FAILED: _abort(CloseReason.CONNECT_FAILED),
        Input.CONNECT_TIMEOUT: _abort(CloseReason.CONNECT_TIMEOUT),
        Input.REQUESTER_CHANNEL_FAILED: _abort(CloseReason.REQUESTER_CHANNEL_FAILED),
        Input.TARGET_CHANNEL_FAILED: _abort(CloseReason.TARGET_CHANNEL_FAILED),
        Input.TARGET_SOCKET_FAILED: _abort(CloseReason.TARGET_SOCKET_FAILED),
        Input.TARGET_BUFFER_FAILED: _abort(CloseReason.TARGET_BUFFER_FAILED),
    },
    State.CLIENT_GONE_EARLY: _ANY_TIME
    | {
        Input.CONNECTED: Step(State.CLIENT_GONE, Action.START),
        Input.CONNECT_REFUSED: _abort(),
        Input.CONNECT_FAILED: _abort(),
        Input.CONNECT_TIMEOUT: _abort(),
        Input.TARGET_CHANNEL_FAILED: _abort(),
        Input.TARGET_SOCKET_FAILED: _abort(),
        Input.TARGET_BUFFER_FAILED: _abort(),
        Input.CLIENT_CUT: Step(State.CLIENT_GONE_EARLY, Action.NOTHING),
    },
    State.RELAYING: _WHILE_RELAYING
    | {
        Input.CLIENT_END: Step(State.CLIENT_ENDED, Action.CLOSE_TARGET_WRITE, CloseReason.REQUESTER_READ_CLOSED),
        Input.TARGET_END: Step(State.TARGET_ENDED, Action.CLOSE_CLIENT_WRITE, CloseReason.TARGET_READ_CLOSED),
        Input.CLIENT_RESET: _LINGER_FOR_TARGET._replace(reason=CloseReason.REQUESTER_READ_CLOSED),
        Input.TARGET_RESET: _LINGER_FOR_CLIENT._replace(reason=CloseReason.TARGET_READ_CLOSED),
        Input.CLIENT_CUT: _CLIENT_GONE._replace(reason=CloseReason.REQUESTER_READ_CLOSED),
        Input.TARGET_CUT: _TARGET_GONE._replace(reason=CloseReason.TARGET_READ_CLOSED),
        Input.CLIENT_WRITE_FAILED: _CLIENT_GONE._replace(reason=CloseReason.REQUESTER_WRITE_CLOSED),
        Input.TARGET_WRITE_FAILED: _TARGET_GONE._replace(reason=CloseReason.TARGET_WRITE_CLOSED),
    },
    State.CLIENT_ENDED: _WHILE_RELAYING
    | {
        Input.TARGET_END: _SETTLE,
        Input.TARGET_RESET: _LINGER_FOR_CLIENT,
        Input.TARGET_CUT: _TARGET_GONE,
        Input.CLIENT_CUT: Step(State.CLIENT_GONE_AFTER_END, Action.AWAIT_TARGET_END),
        Input.CLIENT_WRITE_FAILED: _LINGER_FOR_TARGET._replace(reason=CloseReason.REQUESTER_WRITE_CLOSED),
    },
    State.TARGET_ENDED: _WHILE_RELAYING
    | {
        Input.CLIENT_END: _SETTLE,
        Input.CLIENT_RESET: _LINGER_FOR_TARGET,
        Input.CLIENT_CUT: _CLIENT_GONE,
        Input.TARGET_CUT: Step(State.TARGET_GONE_AFTER_END, Action.AWAIT_CLIENT_END),
        Input.TARGET_WRITE_FAILED: _LINGER_FOR_CLIENT._replace(reason=CloseReason.TARGET_WRITE_CLOSED),
    },
    State.CLIENT_GONE: _gone(State.CLIENT_GONE, Input.CLIENT_CUT)
    | {
        Input.CLIENT_RESET: _LINGER_FOR_TARGET,
        Input.TARGET_CUT: _abort(),
        Input.TARGET_WRITE_FAILED: _abort(),
    },
    State.TARGET_GONE: _gone(State.TARGET_GONE, Input.TARGET_CUT)
    | {
        Input.TARGET_RESET: _LINGER_FOR_CLIENT,
        Input.CLIENT_CUT: _abort(),
        Input.CLIENT_WRITE_FAILED: _abort(),
    },
    State.CLIENT_GONE_AFTER_END: _gone(State.CLIENT_GONE_AFTER_END, Input.CLIENT_CUT)
    | {
        Input.TARGET_END: _SETTLE_WITH_TARGET,
        Input.TARGET_RESET: _abort(),
        Input.TARGET_CUT: _abort(),
        Input.CLIENT_WRITE_FAILED: _LINGER_FOR_TARGET,
        Input.LINGER_TIMEOUT: _LINGER_FOR_TARGET,
    },
    State.TARGET_GONE_AFTER_END: _gone(State.TARGET_GONE_AFTER_END, Input.TARGET_CUT)
    | {
        Input.CLIENT_END: _SETTLE_WITH_CLIENT,
        Input.CLIENT_RESET: _abort(),
        Input.CLIENT_CUT: _abort(),
        Input.TARGET_WRITE_FAILED: _LINGER_FOR_CLIENT,
        Input.LINGER_TIMEOUT: _LINGER_FOR_CLIENT,
    },
    State.LINGERING_FOR_TARGET: _gone(State.LINGERING_FOR_TARGET, Input.CLIENT_CUT)
    | {Input.ACKNOWLEDGED: _abort(), Input.TARGET_CUT: _abort()},
    State.LINGERING_FOR_CLIENT: _gone(State.LINGERING_FOR_CLIENT, Input.TARGET_CUT)
    | {Input.ACKNOWLEDGED: _abort(), Input.CLIENT_CUT: _abort()},
    State.SETTLING: _WHILE_SETTLING
    | {
        Input.CLIENT_RESET: _SETTLE_WITH_TARGET,
        Input.TARGET_RESET: _SETTLE_WITH_CLIENT,
        Input.CLIENT_CUT: _LINGER_FOR_TARGET,
        Input.TARGET_CUT: _LINGER_FOR_CLIENT,
    },
    State.SETTLING_WITH_TARGET: _WHILE_SETTLING
    | {
        Input.CLIENT_RESET: Step(State.SETTLING_WITH_TARGET, Action.NOTHING),
        Input.CLIENT_CUT: Step(State.SETTLING_WITH_TARGET, Action.NOTHING),
        Input.TARGET_RESET: _FINISH,
        Input.TARGET_CUT: _abort(),
    },
    State.SETTLING_WITH_CLIENT: _WHILE_SETTLING
    | {
        Input.TARGET_RESET: Step(State.SETTLING_WITH_CLIENT, Action.NOTHING),
        Input.TARGET_CUT: Step(State.SETTLING_WITH_CLIENT, Action.NOTHING),
        Input.CLIENT_RESET: _FINISH,
        Input.CLIENT_CUT: _abort(),
    },
    State.CLOSED: {},
}


def step(state: State, happened: Input) -> Step:
    """Tell what `happened` means in `state`."""
    try:
        return TABLE[state][happened]
    except KeyError:
        raise IllegalInput(f"{happened.name} while {state.name}") from None
