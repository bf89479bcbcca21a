"""The recorder of a sealed run: what it writes is what docs/seal.md promises."""

import json
import sys
from hashlib import sha256

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: cryptography, which Wine 8 cannot load", allow_module_level=True)

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from support.judge import check_run
from support.samples import usual

from mprelay.records import catalogue
from mprelay.records.about import About
from mprelay.records.render import renderer
from mprelay.records.sealed import SealedRecorder
from mprelay.seal import keys, notes, sealer
from mprelay.seal.tree import EMPTY_ROOT, Frontier, leaf_of

FORMATS = ["json", "gcp", "ecs", "ocsf"]
STATS = usual(catalogue.RELAY_STATS)


class Sealed:
    """A recorder that keeps lines and notes, in the order of their flushes."""

    def __init__(self, log_format="json", owner=None, **given):
        self.lines, self.notes = [], []
        self.given = []
        render = renderer(log_format, About("0.0", "gateway", None, 8080, "192.0.2.1"), terminal=False)
        self.recorder = SealedRecorder(
            render, self._take, new_key=keys.new, owner=owner, note_sink=self._take_notes, **given
        )

    def _take(self, lines):
        self.lines += lines
        self.given.append("lines")

    def _take_notes(self, notes):
        self.notes += notes
        self.given.append("notes")

    def write(self, count=1):
        """Write some records."""
        for _ in range(count):
            self.recorder.write(catalogue.RELAY_STATS, **STATS)

    def finish(self):
        """Write the last records; return all lines."""
        self.recorder.write(catalogue.RELAY_STOPPED, **usual(catalogue.RELAY_STOPPED))
        self.recorder.checkpoint(last=True)
        self.recorder.flush()
        return self.lines


def fields_of(line):
    """A record's own fields, wherever the format has them."""
    record = json.loads(line)
    for part in ("mprelay", "unmapped"):
        record |= record.get(part, {})
    event = record.get("event")
    if isinstance(event, dict):
        event = event["action"]
    return {**record, "event": event or record["metadata"]["event_code"]}


def verify(public, signature, text):
    Ed25519PublicKey.from_public_bytes(notes.decoded(public)).verify(notes.decoded(signature), text.encode())


def check(sealed, owner=None):
    """Check every key and every checkpoint, as docs/seal.md has it."""
    origin = notes.origin_of(sealed.recorder.relay_id)
    tree, key, checkpoints = Frontier(), owner, []
    for line in sealed.lines:
        record = fields_of(line)
        if record["event"] == "log.key":
            if record.get("signed_by") is not None:
                assert record["signed_by"] == key
                said = notes.statement(origin, tree.size, tree.root(), notes.decoded(record["public_key"]))
                verify(key, record["signature"], said)
            key = record["public_key"]
        elif record["event"] == "log.checkpoint":
            assert (record["size"], notes.decoded(record["root"])) == (tree.size, tree.root())
            signature = record["signature"].encode()
            assert line.count(signature) == 1
            own = line.removesuffix(b"\n").replace(signature, b"")
            made = notes.Checkpoint(origin, tree.size, tree.root(), sha256(own).digest())
            verify(key, record["signature"], made.text())
            checkpoints.append(notes.signed(made, notes.decoded(key), notes.decoded(record["signature"])))
        tree.append(leaf_of(line.removesuffix(b"\n")))
    assert sealed.notes == checkpoints


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_run_is_sealed_in_any_format(log_format):
    sealed = Sealed(log_format)
    sealed.write(3)
    sealed.recorder.checkpoint()
    sealed.write(2)
    lines = sealed.finish()
    events = [fields_of(line)["event"] for line in lines]
    stats = "relay.stats"
    assert events == [
        "log.key",
        *[stats] * 3,
        "log.checkpoint",
        *[stats] * 2,
        "relay.stopped",
        "log.checkpoint",
    ]


@pytest.mark.parametrize("log_format", FORMATS)
def test_what_is_signed_is_what_is_written(log_format):
    """Also if a label looks like an empty signature."""
    sealed = Sealed(log_format, labels={"ticket": "CHG-1", "Ω": "🙂", "signature": "", "x": '"signature":""'})
    sealed.write(5)
    sealed.recorder.checkpoint()
    sealed.write(2)
    sealed.finish()
    check(sealed)


def test_nothing_new_needs_no_checkpoint():
    sealed = Sealed()
    assert sealed.recorder.uncovered
    sealed.recorder.checkpoint()
    assert not sealed.recorder.uncovered
    sealed.recorder.checkpoint()
    sealed.recorder.flush()
    assert len(sealed.lines) == 2


def test_never_more_than_a_thousand_records_without_a_checkpoint():
    """Records of one moment stay together."""
    sealed = Sealed()
    for _ in range(700):
        sealed.recorder.happened(
            1.0, (catalogue.RELAY_STATS, STATS), (catalogue.RELAY_STATS, STATS), (catalogue.RELAY_STATS, STATS)
        )
    records = [json.loads(line) for line in sealed.finish()]
    places = [place for place, record in enumerate(records) if record["event"] == "log.checkpoint"]
    assert places[:2] == [1000, 2000]  # log.key, 333 moments of three records; then a checkpoint, 333 moments
    check(sealed)


def test_a_key_is_renewed_by_the_one_before_it(monkeypatch):
    monkeypatch.setattr(sealer, "KEY_CHECKPOINTS", 2)
    sealed = Sealed()
    for _ in range(5):
        sealed.write()
        sealed.recorder.checkpoint()
    records = [json.loads(line) for line in sealed.finish()]
    made = [record for record in records if record["event"] == "log.key"]
    assert len({record["public_key"] for record in made}) == 3
    assert [record["signed_by"] for record in made] == [None, *(record["public_key"] for record in made[:-1])]
    assert [records[record["seq"] - 2]["event"] for record in made[1:]] == ["log.checkpoint"] * 2
    assert records[-1]["event"] == "log.checkpoint"  # and no key behind it, though this one has signed twice
    check(sealed)
    check_run(records, ended=False)


def test_an_owner_vouches_for_the_first_key():
    owner = keys.new()
    sealed = Sealed(owner=owner)
    sealed.finish()
    first = json.loads(sealed.lines[0])
    assert first["signed_by"] == notes.encoded(owner.public)
    said = notes.statement(
        notes.origin_of(sealed.recorder.relay_id), 0, EMPTY_ROOT, notes.decoded(first["public_key"])
    )
    verify(first["signed_by"], first["signature"], said)
    check(sealed, owner=notes.encoded(owner.public))


def test_notes_come_behind_their_records():
    """A note that is ahead of the log would say that the log was cut."""
    sealed = Sealed()
    sealed.recorder.checkpoint()
    assert sealed.given == []
    sealed.recorder.flush()
    sealed.recorder.flush()
    assert sealed.given == ["lines", "notes"]


def test_nobody_need_want_the_notes():
    recorder = SealedRecorder(
        renderer("json", About("0.0"), terminal=False), new_key=keys.new, owner=None, note_sink=None
    )
    recorder.checkpoint()
    recorder.flush()
    assert recorder._seal.notes == []


@pytest.mark.parametrize("log_format", ["json", "ecs"])
def test_a_watcher_sees_the_signature(log_format):
    sealed = Sealed(log_format)
    seen = []
    sealed.recorder.flush()
    sealed.recorder.watch(seen.extend)
    sealed.write()
    sealed.finish()
    assert [json.loads(line)["event"] for line in seen] == ["relay.stats", "relay.stopped", "log.checkpoint"]
    assert json.loads(seen[-1])["signature"] == fields_of(sealed.lines[-1])["signature"]
    assert [json.loads(line)["seq"] for line in seen] == [2, 3, 4]
