"""Proofs of a session: made out of a log, and judged without it."""

import copy
import io
import json
import sys

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: cryptography, which Wine 8 cannot load", allow_module_level=True)

import orjson
from hypothesis import given
from hypothesis import strategies as st
from support.sealed import RELAY_ID, Log, b64, key_of, path_of, public, root_of, whole

from mprelay.audit import keys, lines, prove
from mprelay.audit.lines import Trouble
from mprelay.audit.prove import Prover, Search, Witness, WrongProof
from mprelay.audit.run import Sealed
from mprelay.audit.verify import Verifier
from mprelay.seal import notes
from mprelay.seal.tree import EMPTY_ROOT, leaf_of

SIGNER = key_of(7)
LOG = whole(signer=SIGNER)
OTHER = whole("00000000000000aa", key=5)


def pieces(*files):
    """What is read of files, each given as a list of lines."""
    for number, given_lines in enumerate(files, 1):
        data = b"".join(line + b"\n" for line in given_lines)
        yield from lines.pieces_of(f"log.{number}", io.BytesIO(data))


def proof_of(session, *files, relay_id=RELAY_ID):
    """The proof, as it is written."""
    verifier, search = Verifier(keys.check), Search(session)
    for piece in pieces(*files):
        verifier.take(piece)
        search.take(piece)
    assert relay_id in search.last
    prover = Prover(relay_id, session, verifier.run_of(relay_id).sealed)
    for piece in pieces(*files):
        prover.take(piece)
    proof = prover.end()
    return None if proof is None else orjson.dumps(proof)


def judged(proof, trusted=()):
    """What a proof proves; it is given as text or as an object."""
    return prove.judge(proof if isinstance(proof, bytes) else orjson.dumps(proof), keys.check, trusted)


def lines_of(session, log=LOG):
    """The lines of a session."""
    return [line for line in log.lines if json.loads(line).get("session") == session]


PROOF = proof_of(3, LOG.lines)


@pytest.fixture
def proof():
    """An object of a proof, to be changed."""
    return orjson.loads(PROOF)


@given(st.integers(0, 40))
def test_the_paths_are_those_of_the_definition(size):
    log = [b"line %d" % number for number in range(size)]
    witness = Witness()
    for line in log:
        witness.append(leaf_of(line), asked=True)
        assert witness.root() == root_of(log[: witness.size])
    assert witness.end() == root_of(log)
    assert witness.paths == {index: path_of(index, log) for index in range(size)}


def test_a_tree_without_leaves():
    assert Witness().end() == EMPTY_ROOT


@pytest.mark.parametrize("session", range(1, 7))
def test_each_session_can_be_proved(session):
    """Those before the key was renewed, and those behind it."""
    proved = judged(proof_of(session, LOG.lines))
    assert proved.lines == lines_of(session)
    assert (proved.relay_id, proved.session, proved.size) == (RELAY_ID, session, len(LOG.lines) - 1)
    assert (proved.signer, proved.signer_known) == (b64(public(SIGNER)), False)


def test_the_proof_comes_out_of_several_files_with_several_runs():
    mixed = [line for pair in zip(LOG.lines, OTHER.lines, strict=True) for line in pair]
    text = proof_of(3, mixed[:7], [b"no record"], mixed[7:])
    assert text == PROOF
    assert judged(proof_of(3, mixed, relay_id=OTHER.relay_id)).lines == lines_of(3, OTHER)


def test_the_signer_must_be_known_if_keys_are_given():
    assert judged(PROOF, [public(SIGNER)]).signer_known
    assert judged(PROOF, [public(key_of(1))]).signer_known
    with pytest.raises(WrongProof, match="a signer that is not among the keys"):
        judged(PROOF, [public(key_of(8))])
    unsigned = whole()
    assert judged(proof_of(3, unsigned.lines), [public(key_of(1))]).signer_known


def test_what_stands_before_a_fault_can_be_proved():
    """Up to the last good checkpoint."""
    broken = [*LOG.lines[:-4], LOG.lines[0]]
    assert judged(proof_of(3, broken)).lines == lines_of(3)
    cut = LOG.lines[:12]
    assert judged(proof_of(3, cut)).lines == lines_of(3)


def test_lines_that_nothing_has_sealed_are_not_in_it():
    log = Log()
    log.checkpoint()
    log.session(1)
    proof = orjson.loads(proof_of(1, log.lines))
    assert proof["lines"] == []
    with pytest.raises(WrongProof, match="has no lines"):
        judged(proof)


def test_files_that_changed_between_two_readings_give_none():
    verifier = Verifier(keys.check)
    for piece in pieces(LOG.lines):
        verifier.take(piece)
    prover = Prover(RELAY_ID, 3, verifier.run_of(RELAY_ID).sealed)
    for piece in pieces(LOG.lines[:-3]):
        prover.take(piece)
    prover.take(Trouble("log", 1, "cut", ""))
    assert prover.end() is None


def test_a_search_finds_runs_by_what_lines_say():
    """Not by what is somewhere in them."""
    search = Search(3)
    log = Log(labels={"note": '"session":3'})
    log.record("session.closed", session=4)
    log.record("session.closed", session=33)
    log.record("session.closed", other={"session": 3})
    log.lines += [b'{"session":3', b'{"session":3}']
    for piece in (*pieces(log.lines), Trouble("log", 1, "cut", "")):
        search.take(piece)
    assert search.last == {}


def wrong(proof, trusted=()):
    """Why a proof proves nothing."""
    with pytest.raises(WrongProof) as caught:
        judged(proof, trusted)
    return str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"1", b"{}", b'{"proof":"mprelay proof v1"}'])
def test_what_is_no_proof(text):
    assert wrong(text) in {"is not JSON", "is no proof of this kind"}


@pytest.mark.parametrize("member", ["lines", "note", "keys", "index", "path"])
def test_no_member_is_there_twice(member):
    """One reader takes the first, the other the last. So whoever shows a proof could show other lines."""
    prove.judge(PROOF, keys.check)
    twice = PROOF.replace(b'"%s":' % member.encode(), b'"%s":[],"%s":' % (member.encode(), member.encode()), 1)
    with pytest.raises(WrongProof, match="has a member twice"):
        prove.judge(twice, keys.check)


def test_a_proof_that_is_nested_deeply_is_none():
    """Where the limit is depends on the version of Python."""
    with pytest.raises(WrongProof):
        prove.judge(b'{"proof":' + b"[" * 1020 + b"]" * 1020 + b"}", keys.check)


def test_another_kind(proof):
    assert wrong(proof | {"proof": "mprelay proof v2"}) == "is no proof of this kind"
    assert wrong(proof | {"more": 1}) == "is no proof of this kind"


@pytest.mark.parametrize("value", [None, 1, 1.5, True, "", "x", [], [1], [[]], {}, {"index": 0}])
def test_values_of_other_types(proof, value):
    """At any place: the proof is wrong, and nothing fails."""
    for name in proof.keys() - {"proof"}:
        wrong(proof | {name: value})
    for part in ("keys", "lines"):
        for name in proof[part][0]:
            changed = copy.deepcopy(proof)
            changed[part][0][name] = value
            wrong(changed)
        changed = copy.deepcopy(proof)
        changed[part][0]["path"][0] = value
        wrong(changed)
        wrong(proof | {part: [value]})


def test_an_inner_node_is_no_line(proof):
    """CVE-2012-2459: the two halves of a node, given as a line."""
    entry = proof["lines"][0]
    entry["line"] = (b"\1" + leaf_of(LOG.lines[7]) + leaf_of(LOG.lines[8])).decode("latin-1")
    entry["path"].pop(0)
    assert "not in the log" in wrong(proof)


@pytest.mark.parametrize("part", ["keys", "lines"])
def test_the_length_of_a_path_is_exact(proof, part):
    beside = b64(bytes(32))
    for path in ([], proof[part][1]["path"][:-1], [*proof[part][1]["path"], beside], [beside]):
        changed = copy.deepcopy(proof)
        changed[part][1]["path"] = path
        assert "not in the log" in wrong(changed)


@pytest.mark.parametrize("index", [-1, 0, 3, 9, 20, 21, 2**40])
def test_the_index_is_the_one_of_the_line(proof, index):
    proof["lines"][0]["index"] = index
    assert "not in the log" in wrong(proof)


def test_a_foreign_size_is_not_signed(proof):
    for size in (0, 1, 19, 21, 32):
        wrong(proof | {"note": proof["note"].replace("\n20\n", f"\n{size}\n")})


def test_the_note_is_of_this_run_and_signed_by_the_key_in_force(proof):
    other = orjson.loads(proof_of(3, OTHER.lines, relay_id=OTHER.relay_id))
    assert wrong(proof | {"note": other["note"]}) == "has the note of another run"
    body = proof["note"].partition("\n\n")[0]
    grease = f"{body}\n\n\u2014 example.com AAAAAAAA\n"
    assert "has not signed the note" in wrong(proof | {"note": grease})
    checkpoint = notes.parse(proof["note"]).checkpoint
    first = key_of(1)
    forged = notes.signed(checkpoint, public(first), first.sign(checkpoint.text().encode()))
    assert "has not signed the note" in wrong(proof | {"note": forged})


def entry_of(log, index, size):
    """A true entry of a proof."""
    path = [b64(beside) for beside in path_of(index, log.lines[:size])]
    return {"index": index, "line": log.lines[index].decode(), "path": path}


def test_every_line_is_of_the_session(proof):
    size = len(LOG.lines) - 1
    for index in (0, 1, 2, 6):
        assert "another session" in wrong(proof | {"lines": [entry_of(LOG, index, size)]})
    assert "another session" in wrong(proof | {"session": 4})
    assert "another session" in wrong(proof | {"session": 3.0})


def test_no_line_counts_twice(proof):
    assert "out of order" in wrong(proof | {"lines": [proof["lines"][0]] * 2})
    assert "out of order" in wrong(proof | {"lines": proof["lines"][::-1]})


def test_every_line_is_of_the_run_and_has_the_seq_of_its_place():
    """Though somebody with the key has put it there."""
    for fields in ({"relay_id": "x"}, {"seq": 9}):
        log = Log()
        log.lines.append(log.shaped("session.closed", {"session": 1, **fields}))
        size, root = len(log.lines), root_of(log.lines)
        checkpoint = notes.Checkpoint(log.origin, size, root, bytes(32))
        note = notes.signed(checkpoint, public(log.key), log.key.sign(checkpoint.text().encode()))
        key = entry_of(log, 0, size) | {"root": b64(EMPTY_ROOT)}
        proof = {"proof": prove.KIND, "relay_id": RELAY_ID, "session": 1, "note": note, "keys": [key]}
        assert "not of its run and place" in wrong(proof | {"lines": [entry_of(log, 1, size)]})


def test_the_keys_are_a_chain(proof):
    one, two = proof["keys"]
    assert wrong(proof | {"keys": []}) == "has no log.key"
    assert "has no log.key where it should" in wrong(proof | {"keys": [two]})
    assert "has no log.key where it should" in wrong(proof | {"keys": [one, one, two]})
    assert "has no log.key where it should" in wrong(
        proof | {"keys": [proof["lines"][0] | {"root": one["root"]}]}
    )
    assert "has no log.key where it should" in wrong(proof | {"keys": [one | {"root": b64(bytes(32))}, two]})
    assert "wrong signature of a key" in wrong(proof | {"keys": [one, two | {"root": b64(bytes(32))}]})
    assert "has not signed the note" in wrong(proof | {"keys": [one]})


def test_a_key_that_the_one_before_has_not_signed():
    log = Log()
    log.checkpoint()
    log.key = key_of(2)
    log._write_key(log.key, key_of(3))
    log.session(1)
    size = len(log.lines)
    checkpoint = notes.Checkpoint(log.origin, size, root_of(log.lines), bytes(32))
    sealed = Sealed(checkpoint, public(log.key), log.key.sign(checkpoint.text().encode()))
    prover = Prover(RELAY_ID, 1, sealed)
    for piece in pieces(log.lines):
        prover.take(piece)
    assert "the one before it has not signed" in wrong(prover.end())


def test_a_first_key_with_a_wrong_signature():
    log = Log(signer=SIGNER)
    log.lines = [log.lines[0].replace(b64(public(SIGNER)).encode(), b64(public(key_of(9))).encode())]
    log.session(1)
    checkpoint = notes.Checkpoint(log.origin, 3, root_of(log.lines), bytes(32))
    sealed = Sealed(checkpoint, public(log.key), log.key.sign(checkpoint.text().encode()))
    prover = Prover(RELAY_ID, 1, sealed)
    for piece in pieces(log.lines):
        prover.take(piece)
    assert "wrong signature of a key" in wrong(prover.end())
