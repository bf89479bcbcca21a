"""What the target's name stands for: the answers of a resolver, and which of them is in force.

Rules:

1. An answer has addresses, or says that the name has none (NXDOMAIN, NODATA). Either is in force from then on.
2. A resolver that fails gives no answer: the last one stays in force.
3. A change is told once: other addresses, another failure, or that it is over. The order of addresses is no
   change: resolvers turn it round with each answer.
"""

from typing import Final, NamedTuple

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


class Answer(NamedTuple):
    """The outcome of a look-up."""

    addresses: tuple[str, ...]  # in the order in which to try them
    error: str | None = None  # why there is none: the response code (RFC 1035, 4.1.1), or another such word
    problem: str | None = None  # what to tell a person about it, even if there are addresses

    @property
    def counts(self) -> bool:
        """Whether it is an answer, and not a failure."""
        return bool(self.addresses) or self.error in {NO_SUCH_NAME, NO_ADDRESS}


def no_addresses(error: str) -> Answer:
    """Make the answer of a look-up that has found no address."""
    return Answer((), error, IN_WORDS.get(error, f"the look-up has failed ({error})"))


class Change(NamedTuple):
    """What an answer has changed, and so what is to be told."""

    resolved: bool  # there are other addresses, or again the same
    problem: bool  # there is a problem, and it was not there before


class Answers:
    """The answer that is in force."""

    def __init__(self, first: Answer) -> None:
        self.in_force = first
        self._problem: str | None = first.problem

    def take(self, answer: Answer) -> Change:
        """Put an answer in force, if it is one; return what that changes."""
        resolved = False
        if answer.counts:
            same = set(answer.addresses) == set(self.in_force.addresses) and answer.error == self.in_force.error
            recovered = self._problem is not None and answer.problem is None
            resolved = bool(answer.addresses) and (recovered or not same)
            if not same:
                self.in_force = answer
        problem = answer.problem is not None and answer.problem != self._problem
        self._problem = answer.problem
        return Change(resolved, problem)
