"""The exception that ends a run which cannot start, or cannot go on."""

from mprelay.core.phases import Happening
from mprelay.records.catalogue import (
    CONFIG_INVALID,
    LISTENER_BIND_FAILED,
    LISTENER_LISTEN_FAILED,
    LISTENER_SOCKET_FAILED,
    PLATFORM_INIT_FAILED,
    PLATFORM_UNSUPPORTED,
    POOL_START_FAILED,
    TIMER_UNAVAILABLE,
    Message,
)

_HAPPENINGS = {
    TIMER_UNAVAILABLE: Happening.PLATFORM_FAILED,
    PLATFORM_INIT_FAILED: Happening.PLATFORM_FAILED,
    PLATFORM_UNSUPPORTED: Happening.PLATFORM_FAILED,
    LISTENER_SOCKET_FAILED: Happening.LISTENER_FAILED,
    LISTENER_BIND_FAILED: Happening.LISTENER_FAILED,
    LISTENER_LISTEN_FAILED: Happening.LISTENER_FAILED,
    POOL_START_FAILED: Happening.POOL_FAILED,
    CONFIG_INVALID: Happening.PARAMETER_FAILED,
}


class Failure(Exception):  # noqa: N818 - what ends the run
    """The relay cannot start, or cannot go on. `message` and `fields` make the record that says so."""

    def __init__(self, message: Message, **fields: str | float | None) -> None:
        super().__init__(message.event, fields)
        self.message = message
        self.fields = fields
        self.happening = _HAPPENINGS[message]
