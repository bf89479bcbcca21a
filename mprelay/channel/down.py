"""The way down: sockets with their tickets, and orders, go from the supervisor to a worker.

How sockets get into another process is the business of :mod:`mprelay.system.passing`.

Rules:

1. One message is a batch of tickets with as many sockets, in the same sequence, or it is one order, which the
   worker obeys.
2. Ownership: after :meth:`Sender.send` returned, the message owns the sockets; the sender closes its copies
   at once and never touches them again. When it raises, the caller still owns them. :meth:`Receiver.receive`
   gives them to its caller.
3. A worker that has too few descriptors left gets all tickets, and the last ones without their sockets.
4. The end of the channel is the stop message, whether the supervisor closed it or died.
5. A message has one of two forms, told apart by its length. Tickets that say nothing but serial and moment are
   rows of a fixed, even size: that is the usual case, and costs least. Anything else is JSON of an odd length.
   Each of its kinds is one row in the table KINDS.
6. What arrives is checked: shapes, bounds and numbers. Only a bug can send anything else. Then the worker ends
   with a report, and the supervisor starts another.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from mprelay.core.protocol import (
    ADDRESSES_LIMIT,
    ERROR_LIMIT,
    IP_LENGTH_LIMIT,
    PORTS_END,
    Address,
    Admit,
    CloseReason,
    Expiry,
    Kill,
    NewExpiry,
    Order,
    Refuse,
    Targets,
    Ticket,
)
from mprelay.system import passing
from mprelay.system.sockets import refuse

BATCH: Final = 64
"""Tickets in one message, at most."""

KILL_BATCH: Final = 512
"""Sessions that one Kill ends, at most."""

MESSAGE_SIZE: Final = 16 * 1024
"""Bytes of one message, at most. A test fills it with the longest tickets, and with the longest order."""

TICKET_FORMAT: Final = "<Qd"
"""A row of a ticket that says nothing but serial and moment, for :mod:`struct`."""

_ROW: Final = struct.Struct(TICKET_FORMAT)
_ROW_SIZE: Final = _ROW.size
_ROWS_SIZE: Final = BATCH * _ROW_SIZE
_pack_row: Final = _ROW.pack
_iterate_rows: Final = _ROW.iter_unpack
_new: Final = tuple.__new__  # the constructor of a named tuple takes twice as long

_REASONS: Final = {reason.value: reason for reason in CloseReason}
_SERIALS_END: Final = 2**64
_MOMENTS_END: Final = 1e11
"""Seconds since the machine was started, or since 1970, are below: three thousand years."""


Received: TypeAlias = list[tuple[Ticket, int | None]] | Order
"""Tickets, each with its socket's descriptor or None, or an order."""


class NotMessage(Exception):  # noqa: N818 - it says what came
    """What no supervisor of ours sends."""


class Kind(NamedTuple):
    """How one kind of message travels in JSON: as a list of its name and its values."""

    name: str
    shape: type
    values: Callable[[Any], list[Any]]  # takes a message apart
    make: Callable[[list[Any]], Any]  # checks the values and makes the message again. Raises NotMessage


def _ticket_values(tickets: Sequence[Ticket]) -> list[Any]:
    return [tuple(ticket) for ticket in tickets]


def _make_tickets(values: list[Any]) -> list[Ticket]:
    if not 0 < len(values) <= BATCH:
        raise NotMessage(f"{len(values)} tickets")
    return [_make_ticket(value) for value in values]


def _make_ticket(value: Any) -> Ticket:  # noqa: ANN401 - that is the question
    if type(value) is list and len(value) == len(Ticket._fields):
        serial, admitted_at, client = value
        if _is_serial(serial) and _is_moment(admitted_at):
            return Ticket(serial, admitted_at, _make_address(client))
    raise NotMessage("a value that is no ticket")


def _make_address(value: Any) -> Address | None:  # noqa: ANN401
    if value is None:
        return None
    if type(value) is list and _types(value) == (str, int):
        ip, port = value
        if _is_text(ip, IP_LENGTH_LIMIT) and 0 <= port < PORTS_END:
            return ip, port
    raise NotMessage("a value that is no address")


def _kill_values(kill: Kill) -> list[Any]:
    if len(kill.serials) > KILL_BATCH:
        raise ValueError(f"a kill of {len(kill.serials)} sessions")
    return [kill.serials, kill.reason.value]


def _make_kill(values: list[Any]) -> Kill:
    if _types(values) == (list, str):
        serials, reason = values
        if len(serials) <= KILL_BATCH and all(map(_is_serial, serials)) and reason in _REASONS:
            return Kill(tuple(serials), _REASONS[reason])
    raise NotMessage("values that are no kill")


def _expiry_values(order: NewExpiry) -> list[Any]:
    return [None if order.expiry is None else tuple(order.expiry)]


def _make_expiry(values: list[Any]) -> NewExpiry:
    match values:
        case [None]:
            return NewExpiry(None)
        case [[at, bool(wall)]] if _is_moment(at):
            return NewExpiry(Expiry(at, wall))
    raise NotMessage("values that are no expiry")


def _targets_values(order: Targets) -> list[Any]:
    return [*order]


def _make_targets(values: list[Any]) -> Targets:
    match values:
        case [list(ips), None | str() as error, bool(named)] if (
            len(ips) <= ADDRESSES_LIMIT
            and all(_is_text(ip, IP_LENGTH_LIMIT) for ip in ips)
            and (bool(ips) if error is None else not ips and _is_text(error, ERROR_LIMIT))
        ):
            return Targets(tuple(ips), error, named)
    raise NotMessage("values that are no targets")


def _admit_values(order: Admit) -> list[Any]:
    return [order.number, tuple(order.ticket)]


def _make_admit(values: list[Any]) -> Admit:
    if len(values) == 2 and _is_serial(values[0]):  # noqa: PLR2004 - as _admit_values says
        return Admit(values[0], _make_ticket(values[1]))
    raise NotMessage("values that are no admission")


def _refuse_values(order: Refuse) -> list[Any]:
    return [order.number]


def _make_refuse(values: list[Any]) -> Refuse:
    if len(values) == 1 and _is_serial(values[0]):
        return Refuse(values[0])
    raise NotMessage("values that are no refusal")


def _types(values: list[Any]) -> tuple[type, ...]:
    return tuple(type(value) for value in values)


def _is_text(value: Any, limit: int) -> bool:  # noqa: ANN401
    return type(value) is str and 0 < len(value) <= limit and value.isascii() and value.isprintable()


def _is_serial(value: Any) -> bool:  # noqa: ANN401
    return type(value) is int and 0 <= value < _SERIALS_END


def _is_moment(value: Any) -> bool:  # noqa: ANN401
    return type(value) is float and 0.0 <= value < _MOMENTS_END


KINDS: Final = (
    Kind("tickets", Ticket, _ticket_values, _make_tickets),
    Kind("kill", Kill, _kill_values, _make_kill),
    Kind("expiry", NewExpiry, _expiry_values, _make_expiry),
    Kind("targets", Targets, _targets_values, _make_targets),
    Kind("admit", Admit, _admit_values, _make_admit),
    Kind("refuse", Refuse, _refuse_values, _make_refuse),
)
"""All kinds of message in JSON."""

_BY_NAME: Final = {kind.name: kind for kind in KINDS}
_BY_SHAPE: Final = {kind.shape: kind for kind in KINDS}


def pack_tickets(tickets: Sequence[Ticket]) -> bytes:
    """Make a message of at most BATCH tickets. ValueError: an address is none, and too long."""
    rows = [_pack_row(serial, admitted_at) for serial, admitted_at, client in tickets if client is None]
    return b"".join(rows) if len(rows) == len(tickets) else _pack(_BY_SHAPE[Ticket], tickets)


def pack_order(order: Order) -> bytes:
    """Make a message of an order. ValueError: it is too long for one."""
    return _pack(_BY_SHAPE[type(order)], order)


def _pack(kind: Kind, content: Order | Sequence[Ticket]) -> bytes:
    message = orjson.dumps([kind.name, *kind.values(content)])
    if len(message) >= MESSAGE_SIZE:
        raise ValueError(f"{kind.name}: a message of {len(message)} bytes")
    return message if len(message) % 2 else message + b" "  # rule 5


def unpack(message: bytes, descriptors: list[int]) -> Received:
    """Make the tickets, each with its socket's descriptor, or the order again. Raises NotMessage."""
    size = len(message)
    if size % 2:
        return _unpack_json(message, descriptors)
    sockets = descriptors if len(descriptors) * _ROW_SIZE == size else _fill(descriptors, size // _ROW_SIZE)
    try:
        tickets = [
            (_new(Ticket, (serial, admitted_at, None)), descriptor)
            for (serial, admitted_at), descriptor in zip(_iterate_rows(message), sockets)  # noqa: B905 - of one length
            if 0.0 <= admitted_at < _MOMENTS_END
        ]
    except struct.error as wrong:
        raise NotMessage(f"tickets of {size} bytes") from wrong
    if len(tickets) * _ROW_SIZE != size or size > _ROWS_SIZE:
        raise NotMessage("tickets beyond all bounds")
    return tickets


def _fill(descriptors: list[int], count: int) -> list[int | None]:
    """Add None for each socket of `count` that is missing (rule 3)."""
    if len(descriptors) > count:
        raise NotMessage("more sockets than tickets")
    return [*descriptors, *[None] * (count - len(descriptors))]


def _unpack_json(message: bytes, descriptors: list[int]) -> Received:
    try:
        values = orjson.loads(message)
    except ValueError as wrong:
        raise NotMessage(str(wrong)) from wrong
    name = values[0] if type(values) is list and values else None
    kind = _BY_NAME.get(name) if type(name) is str else None
    if kind is None:
        raise NotMessage("a message of no kind")
    made: list[Ticket] | Order = kind.make(values[1:])
    if isinstance(made, list):
        return [*zip(made, _fill(descriptors, len(made)), strict=True)]
    if descriptors:
        raise NotMessage("an order with sockets")
    return made


class Sender:
    """The supervisor's end of the channel of one worker, process `pid`. It owns the end."""

    def __init__(self, end: passing.End, pid: int) -> None:
        self._passing = passing.Sender(end, pid)
        self._send = self._passing.send

    def send(self, tickets: Sequence[Ticket], descriptors: Sequence[int]) -> None:
        """Hand over sockets by their descriptors, each with its ticket; at most BATCH. Never blocks.

        Raises OSError: EAGAIN (the channel is full), EPIPE or ECONNRESET (the worker is gone),
        ETOOMANYREFS (too many descriptors are under way). Then nothing was handed over.
        """
        self._send(pack_tickets(tickets), descriptors)

    def send_order(self, order: Order) -> None:
        """Give an order. Never blocks. Raises OSError as :meth:`send` does; ValueError: it is too long."""
        self._send(pack_order(order), ())

    def close(self) -> None:
        """Tell the worker to stop."""
        self._passing.close()


class Receiver:
    """The worker's end, which it owns."""

    def __init__(self, end: passing.End) -> None:
        self._passing = passing.Receiver(end, MESSAGE_SIZE, BATCH)
        self._receive = self._passing.receive

    def fileno(self) -> int:
        """Return the descriptor that is readable when a message waits, or the end."""
        return self._passing.fileno()

    def receive(self) -> Received | None:
        """Take one message; [] if nothing waits, None at the end: stop. The descriptors are now the caller's.

        Raises NotMessage, or OSError with EMSGSIZE; the sockets that came with it are closed.
        """
        try:
            message, descriptors = self._receive()
        except BlockingIOError:
            return []
        if not message:
            return None
        try:
            return unpack(message, descriptors)
        except NotMessage:
            for descriptor in descriptors:
                refuse(descriptor)
            raise

    def close(self) -> None:
        """Give the descriptor back."""
        self._passing.close()
