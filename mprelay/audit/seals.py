"""What verify says of a run, for a report: as an object, and in sentences. Pure."""

from collections.abc import Iterator
from typing import Any, Final

from mprelay.audit import story
from mprelay.audit.run import Fault, RunVerdict

_SAID: Final = {"unsealed": "There is no seal", "signer": "The seal is by none of the keys given"}
"""What a fault means, where the seal itself is not broken."""


def told(verdict: RunVerdict) -> dict[str, Any]:
    """Return the verdict on the seal of a run."""
    fault = verdict.fault
    return {
        "verdict": verdict.verdict,
        "signer": verdict.signer,
        "signer_known": verdict.signer_known,
        "sealed": verdict.sealed,
        "sealed_at": verdict.sealed_at,
        "checkpoints": verdict.checkpoints,
        "problem": None if fault is None else _problem(fault),
        "said": [*_sentences(verdict)],
    }


def _sentences(verdict: RunVerdict) -> Iterator[str]:
    if verdict.fault is not None:
        said = _SAID.get(verdict.fault.what, "The seal is broken")
        yield f"{said}: {_problem(verdict.fault)}."
        if verdict.sealed:
            yield f"The records before that are proved, up to seq {verdict.sealed}."
    elif verdict.verdict == "whole":
        yield f"Sealed: of {story.amount(verdict.lines, 'record')} none was changed, removed or added since."
    elif verdict.sealed:
        behind = story.amount(verdict.lines - verdict.sealed, "record")
        yield (
            f"Sealed up to seq {verdict.sealed}, at {story.clock(verdict.sealed_at)}: none of these records was "
            f"changed, removed or added since. The rest is not sealed: {behind} at the end."
        )
    else:
        yield "Nothing of this run is sealed yet."
    if verdict.signer is not None:
        if verdict.signer_known:
            yield f"The signer is known: {verdict.signer}, one of the keys given by --key."
        else:
            yield (
                f"The signer is not known: {verdict.signer}. Anybody could have made such a seal. Get the public "
                "key from the relay's owner, and give it by --key."
            )


def _problem(fault: Fault) -> str:
    """Say what is wrong, and where."""
    where = [f"{fault.place}"] if fault.place is not None else []
    where += [f"(seq {fault.seq})"] if fault.seq is not None else []
    return " ".join((*where, fault.problem))
