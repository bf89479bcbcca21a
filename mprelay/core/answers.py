"""What the target's name stands for: the answers of a resolver, and what of them is in force.

Rules:

1. Each address family has its own answer. A resolver that fails for one gives none: its last addresses stay.
2. That the name has no address (NXDOMAIN, NODATA) counts only if both families say so.
3. A change is told once: other addresses, another problem, or that it is over. The order of addresses is no
   change: resolvers turn it round with each answer.
"""

from collections.abc import Collection
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Any, Final, NamedTuple

from mprelay.core.protocol import ADDRESSES_LIMIT, ERROR_LIMIT

NO_SUCH_NAME: Final = "NXDOMAIN"
NO_ADDRESS: Final = "NODATA"
NO_ANSWER: Final = "TIMEOUT"

IN_WORDS: Final = {
    NO_SUCH_NAME: "there is no such name (NXDOMAIN)",
    NO_ADDRESS: "the name has no address (NODATA)",
    NO_ANSWER: "no server has answered in time (TIMEOUT)",
    "CONNREFUSED": "no server could be reached (CONNREFUSED)",
    "SERVFAIL": "the server has failed (SERVFAIL)",
    "REFUSED": "the server has refused to answer (REFUSED)",
}
"""Why there is no address."""

_TEXT_LIMIT: Final = 4096  # characters of a problem, more than any is long


def in_words(error: str) -> str:
    """Say why there is no address."""
    return IN_WORDS.get(error, f"the look-up has failed ({error})")


class Answer(NamedTuple):
    """The outcome of a look-up. The addresses are in the order in which to try them."""

    v4: tuple[str, ...] | None  # None: the resolver has failed for this family, or no address can be used
    v6: tuple[str, ...] | None
    error: str | None = None  # why one is missing: the response code (RFC 1035, 4.1.1), or another such word
    problem: str | None = None  # what to tell a person about it, even if there are addresses
    v4_first: bool = False

    @classmethod
    def of(cls, ip: str) -> "Answer":
        """Make the answer of a target that is an address itself."""
        return cls((), (ip,)) if ":" in ip else cls((ip,), ())

    @property
    def addresses(self) -> tuple[str, ...]:
        """Both families in turns (RFC 8305, 4), so that neither uses up the time of the other."""
        return _in_turns(self.v4 or (), self.v6 or (), v4_first=self.v4_first)


def answer_of(values: Any) -> Answer:  # noqa: ANN401 - that is the question
    """Make an answer of what came from the process that looks up. Raises ValueError if it is none."""
    match values:
        case [v4, v6, None | str() as error, None | str() as problem, bool(v4_first)]:
            if len(error or "") <= ERROR_LIMIT and len(problem or "") <= _TEXT_LIMIT:
                answer = Answer(_family(v4), _family(v6), error, problem, v4_first)
                if answer.addresses or None in (answer.v4, answer.v6) or error:  # else nobody would know why
                    return answer
    raise ValueError("values that are no answer")


def _family(values: Any) -> tuple[str, ...] | None:  # noqa: ANN401
    if values is None:
        return None
    if type(values) is not list or len(values) > ADDRESSES_LIMIT or not all(type(one) is str for one in values):
        raise ValueError("values that are no addresses")
    return tuple(str(ip_address(value)) for value in values)


def bounded(ips: Collection[str]) -> tuple[str, ...]:
    """Keep as many addresses as there may be: always the same ones, in whatever order they come."""
    if len(ips) <= ADDRESSES_LIMIT:
        return tuple(ips)
    kept = set(sorted(ips)[:ADDRESSES_LIMIT])
    return tuple(ip for ip in ips if ip in kept)


def _in_turns(v4: tuple[str, ...], v6: tuple[str, ...], *, v4_first: bool) -> tuple[str, ...]:
    first, second = (v4, v6) if v4_first else (v6, v4)
    return bounded([ip for ip in chain(*zip_longest(first, second)) if ip is not None])


class Change(NamedTuple):
    """What is to be told."""

    resolved: bool  # there are other addresses, or again the same
    problem: bool  # there is a problem, and it was not there before


class Answers:
    """What is in force. The first answer has an address."""

    def __init__(self, first: Answer) -> None:
        self._v4, self._v6 = first.v4 or (), first.v6 or ()
        self.addresses = first.addresses
        self.error: str | None = None
        """Why there is no address; None: there is one."""
        self.last = first
        """The last answer, if it is in force or not."""
        self._told: tuple[frozenset[str], str | None] = (frozenset(), None)

    def take(self, answer: Answer) -> bool:
        """Put an answer in force, as far as it is one; tell whether that changes the addresses."""
        self.last = answer
        v4 = self._v4 if answer.v4 is None else answer.v4
        v6 = self._v6 if answer.v6 is None else answer.v6
        if not (v4 or v6) and None in (answer.v4, answer.v6):
            return False  # nobody knows of one family: the name may have an address
        self._v4, self._v6 = v4, v6
        addresses = _in_turns(v4, v6, v4_first=answer.v4_first)
        error = None if addresses else answer.error
        if set(addresses) == set(self.addresses) and error == self.error:
            return False
        self.addresses, self.error = addresses, error
        return True

    @property
    def news(self) -> Change:
        """What is to be told now."""
        addresses, problem = self._told
        over = problem is not None and self.last.problem is None
        resolved = bool(self.addresses) and (over or addresses != frozenset(self.addresses))
        return Change(resolved, self.last.problem is not None and self.last.problem != problem)

    def tell(self) -> None:
        """Note that everything was told."""
        self._told = (frozenset(self.addresses), self.last.problem)
