"""Whatever is done to a sealed log, or to a proof, it is never called whole."""

import io
import json
import sys

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: cryptography, which Wine 8 cannot load", allow_module_level=True)

import orjson
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.sealed import key_of, public, whole

from mprelay.audit import keys, lines, prove
from mprelay.audit.prove import Prover, WrongProof
from mprelay.audit.verify import Verifier

SIGNER = key_of(7)
LOG = whole(signer=SIGNER, sessions=9, every=2, renewed=5)
OTHER = whole("00000000000000aa", key=3, signer=SIGNER)
SAME = whole(signer=SIGNER, key=4, every=3)
"""Another run that says it is the same."""

FORGED = whole(signer=key_of(8), key=5, sessions=9, every=2, renewed=5)
"""The same log, sealed anew by somebody else."""


def verdict_of(data, trusted):
    """Verify a file."""
    verifier = Verifier(keys.check, trusted)
    for piece in lines.pieces_of("log", io.BytesIO(data)):
        verifier.take(piece)
    return verifier.end().verdict


def is_seal(line, *events):
    """Tell whether a line is a record of the seal."""
    return json.loads(line)["event"] in (events or ("log.key", "log.checkpoint"))


def places(count=1):
    """Places of different lines."""
    return st.lists(st.integers(0, len(LOG.lines) - 1), min_size=count, max_size=count, unique=True)


def renumbered(log):
    """The lines with seqs that have no gap."""
    shaped = [json.loads(line) | {"seq": seq} for seq, line in enumerate(log, 1)]
    return [json.dumps(record, separators=(",", ":")).encode() for record in shaped]


def changed_byte(draw):
    """Another byte, anywhere."""
    data = bytearray(LOG.data)
    place = draw(st.integers(0, len(data) - 1))
    data[place] ^= draw(st.integers(1, 255))
    return bytes(data)


def dropped(draw):
    """Lines are gone: one, or a file's."""
    start, end = sorted(draw(places(2)))
    return LOG.lines[:start] + LOG.lines[draw(st.sampled_from([start + 1, end])) :]


def doubled(draw):
    """A line stands at one more place."""
    one, two = draw(places(2))
    return [*LOG.lines[:two], LOG.lines[one], *LOG.lines[two:]]


def swapped(draw):
    """Two lines have changed places."""
    one, two = draw(places(2))
    log = [*LOG.lines]
    log[one], log[two] = log[two], log[one]
    return log


def inserted(draw):
    """A line that was made up, or is another run's; with the seqs behind it as they were, or not."""
    (place,) = draw(places())
    line = draw(st.sampled_from([*OTHER.lines, *SAME.lines, b"", b"x", b"{}", b"\0"]))
    log = [*LOG.lines[:place], line, *LOG.lines[place:]]
    return renumbered(log) if draw(st.booleans()) and line.startswith(b'{"') else log


def truncated(draw):
    """Cut off, at any byte."""
    return LOG.data[: draw(st.integers(0, len(LOG.data) - 1))]


def spliced(draw):
    """The beginning of one run and the end of another."""
    other = draw(st.sampled_from([OTHER, SAME, FORGED]))
    one = draw(st.integers(1, len(LOG.lines) - 1))
    two = draw(st.integers(1, len(other.lines) - 1))
    log = LOG.lines[:one] + other.lines[two:]
    return renumbered(log) if draw(st.booleans()) else log


def replaced_key(draw):
    """The line of another run's key, or its values."""
    place = draw(st.sampled_from([place for place, line in enumerate(LOG.lines) if is_seal(line, "log.key")]))
    other = json.loads(draw(st.sampled_from([OTHER, SAME, FORGED])).lines[0])
    names = draw(st.sets(st.sampled_from(["public_key", "signed_by", "signature"]), min_size=1))
    log = [*LOG.lines]
    record = json.loads(log[place]) | {name: other[name] for name in names}
    log[place] = json.dumps(record, separators=(",", ":")).encode()
    return log


def without_last_checkpoint(draw):
    """The last one is gone, and others perhaps."""
    count = draw(st.integers(1, 3))
    seals = [place for place, line in enumerate(LOG.lines) if is_seal(line, "log.checkpoint")][-count:]
    return [line for place, line in enumerate(LOG.lines) if place not in seals]


def without_checkpoints(draw):
    """All are gone, and the keys perhaps, and the gaps too."""
    events = draw(st.sampled_from([("log.checkpoint",), ("log.checkpoint", "log.key")]))
    log = [line for line in LOG.lines if not is_seal(line, *events)]
    return renumbered(log) if draw(st.booleans()) else log


def forged(_draw):
    """All is sealed anew by another key."""
    return FORGED.lines


MUTATIONS = [changed_byte, dropped, doubled, swapped, inserted, truncated, spliced, replaced_key]
MUTATIONS += [without_last_checkpoint, without_checkpoints, forged]


def proof_of(session):
    """A proof, as its object."""
    verifier = Verifier(keys.check)
    for piece in lines.pieces_of("log", io.BytesIO(LOG.data)):
        verifier.take(piece)
    prover = Prover(LOG.relay_id, session, verifier.run_of(LOG.relay_id).sealed)
    for piece in lines.pieces_of("log", io.BytesIO(LOG.data)):
        prover.take(piece)
    return orjson.dumps(prover.end())


PROOFS = {session: proof_of(session) for session in (2, 8)}


def changed_proof(draw):
    """Another byte, or something else in the place of a value."""
    text = draw(st.sampled_from([*PROOFS.values()]))
    if draw(st.booleans()):
        data = bytearray(text)
        data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
        return bytes(data)
    proof, other = orjson.loads(text), orjson.loads(draw(st.sampled_from([*PROOFS.values()])))
    part = draw(st.sampled_from(["keys", "lines"]))
    entry, foreign = draw(st.sampled_from(proof[part])), draw(st.sampled_from(other["lines"]))
    match draw(st.integers(0, 6)):
        case 0:
            name = draw(st.sampled_from([*entry]))
            entry[name] = foreign.get(name, entry["path"][0])
        case 1:
            entry["path"].insert(draw(st.integers(0, len(entry["path"]))), draw(st.sampled_from(foreign["path"])))
        case 2:
            entry["path"].pop(draw(st.integers(0, len(entry["path"]) - 1)))
        case 3:
            proof[part].append(foreign)
        case 4:
            proof[draw(st.sampled_from([*proof]))] = draw(st.sampled_from([*other.values()]))
        case 5:
            proof["keys"].remove(draw(st.sampled_from(proof["keys"])))
        case 6:
            draw(st.randoms()).shuffle(entry["path"])
    return orjson.dumps(proof)


each_count = pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)


def examples(count):
    """So many, whatever they take."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[*HealthCheck], database=None)


@each_count
def test_a_log_that_was_changed_is_never_whole(count):
    """With the signer's key, and without it."""
    assert verdict_of(LOG.data, []) == verdict_of(LOG.data, [public(SIGNER)]) == "whole"

    @examples(count)
    @given(st.sampled_from(MUTATIONS), st.booleans(), st.data())
    def change(mutation, known, data):
        made = mutation(data.draw)
        made = made if isinstance(made, bytes) else b"".join(line + b"\n" for line in made)
        assume(made != LOG.data)
        trusted = [public(SIGNER)] if known or mutation is forged else []
        assert verdict_of(made, trusted) in {"open", "broken"}

    change()


@each_count
def test_a_proof_that_was_changed_is_none(count):
    for session, text in PROOFS.items():
        assert prove.judge(text, keys.check, [public(SIGNER)]).session == session

    @examples(count)
    @given(st.booleans(), st.data())
    def change(known, data):
        made = changed_proof(data.draw)
        originals = [*PROOFS.values(), *(orjson.dumps(orjson.loads(text)) for text in PROOFS.values())]
        assume(made not in originals)
        with pytest.raises(WrongProof):
            prove.judge(made, keys.check, [public(SIGNER)] if known else [])

    change()
