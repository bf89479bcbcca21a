"""How long a session that is ending waits for those that are still there, and for what.

Nothing in epoll tells of an acknowledgement, so a session that lingers is looked at after growing pauses. Only
when both sides have ended is there an edge, because the acknowledgement of our FIN changes TCP's state. Where
the poller tells no edges there is none.

A system may not tell what is unacknowledged (Windows, a sandbox). Then:

- What was sent counts as delivered, in the byte counts and in the question whether a reset has cut anything.
- A session that both sides ended is closed at once. The system delivers what is under way.
- A reset destroys what is under way. So one that is to be passed on waits for a fixed time after the last byte.
"""

from socket import SocketType
from typing import Final, Protocol

from mprelay.core.lifecycle import State
from mprelay.system import poller, sockets
from mprelay.worker.pump import Pump

LINGER: Final = 10.0
"""Seconds without progress that a side is given to take what the other said before it ended or was gone."""
WINDOWS_FILL: Final = 1.0
"""Seconds in which the receive windows of sides that do not read fill up. That is no progress."""
ARRIVAL: Final = 1.0
"""Seconds in which what was sent has arrived, though it be lost once or twice on its way."""
AWAIT_END: Final = 0.1
"""Seconds that a peer is given to end, after the other has ended and then reset."""
FAREWELL: Final = 128
"""Bytes that a peer which has ended may leave behind without a cut: a TLS alert takes at most 85 (RFC 5246)."""
FIRST_PAUSE: Final = 0.001  # seconds until a lingering session is looked at again; each time twice as long …
_LONGEST_PAUSE: Final = 0.25  # … up to this

DRAINING: Final = {State.CLIENT_GONE, State.TARGET_GONE}
AWAITING: Final = {State.CLIENT_GONE_AFTER_END, State.TARGET_GONE_AFTER_END}
SETTLING: Final = {State.SETTLING, State.SETTLING_WITH_TARGET, State.SETTLING_WITH_CLIENT}

# Before 3.12, looking a member up in its class takes as long as a dozen other steps (0.1 µs).
_WITH_TARGET: Final = State.SETTLING_WITH_TARGET
_WITH_CLIENT: Final = State.SETTLING_WITH_CLIENT
_FOR_TARGET: Final = {State.CLIENT_GONE, State.LINGERING_FOR_TARGET}


class Ending(Protocol):
    """A session that is ending: `up` moves bytes from client to target, `down` the other way."""

    state: State
    client: SocketType
    target: SocketType
    up: Pump
    down: Pump


def time_limit(session: Ending, idle_timeout: float, *, known: bool = True) -> float:
    """Return the seconds without progress that those which are still there are given.

    If it is not `known` what they have not acknowledged, no progress can be seen once the last byte is sent. A
    sink that was full at any time may take bytes slowly. It gets the whole linger time.
    """
    state = session.state
    if state in SETTLING:
        return min(LINGER, idle_timeout)
    if known or state in DRAINING:
        return LINGER
    last = session.up if state in _FOR_TARGET else session.down
    if not last.sent:
        return 0.0
    return LINGER if last.was_blocked else ARRIVAL


def longer(pause: float) -> float:
    """Return the pause that follows this one."""
    return min(2 * pause, _LONGEST_PAUSE)


def unacknowledged(session: Ending) -> int | None:
    """Count the bytes that those which are waited for have not acknowledged; None if the system does not tell.

    If both sides have ended, only data counts: our FIN may be acknowledged late, and an orphan without data holds
    next to no memory. If the system does not tell, nothing is waited for.
    """
    state = session.state
    if state in SETTLING:
        left = 0
        if state is not _WITH_TARGET:
            left = session.down.not_arrived()
        if state is not _WITH_CLIENT:
            left += session.up.not_arrived()
        return left
    return sockets.unacknowledged(session.target if state in _FOR_TARGET else session.client)


def edge_will_tell(session: Ending) -> bool:
    """Tell whether there will be an edge when all is acknowledged: those which are waited for have our FIN."""
    state = session.state
    if state not in SETTLING or not poller.TELLS_EDGES:
        return False
    return (session.up.fin_sent or state is _WITH_CLIENT) and (session.down.fin_sent or state is _WITH_TARGET)


def left_behind(session: Ending) -> bool:
    """Tell whether the side that is gone, after its own end, is known to have left what was sent to it before."""
    gone = session.client if session.state is State.CLIENT_GONE_AFTER_END else session.target
    return (sockets.unacknowledged(gone) or 0) > FAREWELL
