"""Verifying sealed logs, which were written after docs/seal.md alone (tests/support/sealed.py)."""

import io
import json
import sys
import tracemalloc
from itertools import pairwise

import orjson
import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: cryptography, which Wine 8 cannot load", allow_module_level=True)

from hypothesis import given, settings
from hypothesis import strategies as st
from support.sealed import RELAY_ID, Log, b64, key_of, public, root_of, whole

from mprelay.audit import forms, keys, lines, verify
from mprelay.audit.verify import Verifier
from mprelay.records import ecs, gcp, ocsf
from mprelay.records.about import About
from mprelay.seal import notes

ABOUT = About("1.2.3", "gateway", "198.51.100.9", 8080, "db.example")
FORMATS = {
    "json": dict,
    "gcp": gcp.shape,
    "ecs": lambda record: ecs.shape(record, ABOUT),
    "ocsf": lambda record: ocsf.shape(record, ABOUT),
}
SIGNER = key_of(7)
OTHER = "00000000000000aa"
SIGNED = whole(signer=SIGNER)
CLOSED = SIGNED.lines
EVENTS = [json.loads(line)["event"] for line in CLOSED]
CHECKPOINTS = [seq for seq, event in enumerate(EVENTS, 1) if event == "log.checkpoint"]
KEYS = [seq for seq, event in enumerate(EVENTS, 1) if event == "log.key"]
OTHERS = [seq for seq, event in enumerate(EVENTS, 1) if not event.startswith("log.")]


def judge(*files, trusted=(), noted=None):
    """The verdict on files, given as bytes or as lists of lines."""
    kept = [notes.parse(note) for note in noted or ()]
    verifier = Verifier(keys.check, trusted, kept if noted is not None else None)
    for number, given_lines in enumerate(files, 1):
        data = given_lines if isinstance(given_lines, bytes) else b"".join(line + b"\n" for line in given_lines)
        for piece in lines.pieces_of(f"log.{number}", io.BytesIO(data)):
            verifier.take(piece)
    return verifier.end()


def fault_of(*files, **more):
    """What is wrong with the only run, or with the files."""
    verdict = judge(*files, **more)
    assert verdict.verdict == "broken"
    (fault,) = [*verdict.faults, *(run.fault for run in verdict.runs if run.fault)]
    return fault


def where(fault):
    """What was done, and where it shows: file, line and seq."""
    return fault.what, *(fault.place or (None, None)), fault.seq


def changed(line, **fields):
    """The line with other values."""
    return json.dumps(json.loads(line) | fields, separators=(",", ":")).encode()


def test_a_whole_log():
    verdict = judge(CLOSED)
    assert (verdict.verdict, verdict.faults, verdict.hints) == ("whole", [], [])
    (run,) = verdict.runs
    assert (run.relay_id, run.verdict, run.fault) == (RELAY_ID, "whole", None)
    assert (run.lines, run.sealed, run.checkpoints) == (len(CLOSED), len(CLOSED), len(CHECKPOINTS))
    assert (run.signer, run.signer_known) == (b64(public(SIGNER)), False)
    assert run.sealed_at == json.loads(CLOSED[-1])["timestamp"]


@pytest.mark.parametrize("log_format", FORMATS)
def test_each_line_is_parsed_once(log_format, monkeypatch):
    """In any format. What seals is looked at twice, and so is the first line of a run."""

    class Shaped(Log):
        def shaped(self, event, fields):
            return orjson.dumps(FORMATS[log_format](json.loads(super().shaped(event, fields))))

    log = Shaped()
    for _ in range(3):
        log.record("relay.stats", active=1)
        log.record("relay.stats", active=2)
        log.checkpoint()
    log.close()
    special = []
    monkeypatch.setattr(verify, "parsed", lambda line: special.append(line) or forms.parsed(line))
    assert judge(log.lines).verdict == "whole"
    assert special == [log.lines[0], *(line for line in log.lines if b"log.checkpoint" in line)]


@pytest.mark.parametrize("count", range(1, len(CLOSED)))
def test_a_log_that_ends_early_is_open(count):
    """And it says what is not sealed."""
    verdict = judge(CLOSED[:count])
    (run,) = verdict.runs
    assert verdict.verdict == run.verdict == "open"
    assert run.sealed == max((seq for seq in CHECKPOINTS if seq <= count), default=0)
    assert run.lines == count
    assert run.unsealed == ((run.sealed + 1, count) if run.sealed < count else None)


def test_the_end_must_follow_the_stop():
    """A checkpoint alone closes nothing, and a stop without one neither."""
    log = whole()
    assert judge(log.lines[:-2]).verdict == judge(log.lines[:-1]).verdict == "open"
    log = Log()
    log.record("relay.stopped")
    log.record("session.closed")
    log.checkpoint()
    assert judge(log.lines).verdict == "open"


@pytest.mark.parametrize("signer", [None, SIGNER])
def test_a_key_of_the_run_can_be_trusted_itself(signer):
    log = whole(signer=signer)
    verdict = judge(log.lines, trusted=[public(key_of(1))])
    assert (verdict.verdict, verdict.runs[0].signer_known) == ("whole", True)


@pytest.mark.parametrize("other", [None, key_of(9)])
def test_who_names_a_trusted_key_is_not_known_by_that(other):
    """Public keys are public. It is known when that key has signed a checkpoint."""
    log = Log(key=7, signer=other)
    log.record("session.closed")
    assert not judge(log.lines, trusted=[public(SIGNER)]).runs[0].signer_known
    log.checkpoint(key_of(8))
    verdict = judge(log.lines, trusted=[public(SIGNER)])
    assert (verdict.verdict, verdict.runs[0].signer_known) == ("broken", False)


def test_the_signer_can_be_trusted():
    verdict = judge(CLOSED, trusted=[public(key_of(8)), public(SIGNER)])
    assert (verdict.verdict, verdict.runs[0].signer_known) == ("whole", True)


@pytest.mark.parametrize(
    ("signer", "said"),
    [(None, "no signer: --seal-key was not given"), (SIGNER, "a signer that is not among the keys")],
)
def test_a_signer_who_is_not_among_the_keys_is_told_as_that(signer, said):
    fault = fault_of(whole(signer=signer).lines, trusted=[public(key_of(8))])
    assert where(fault) == ("signer", "log.1", 1, 1)
    assert fault.problem == f"names {said}"


def test_the_seal_key_was_replaced_between_two_runs():
    """Both keys fit both runs. With the new one alone, the old run has a signer that is not known."""
    old, new = whole(OTHER, signer=key_of(6)), SIGNED
    both = [public(key_of(6)), public(SIGNER)]
    assert judge(old.lines, new.lines, trusted=both).verdict == "whole"
    verdict = judge(old.lines, new.lines, trusted=both[1:])
    assert [run.fault and run.fault.what for run in verdict.runs] == ["signer", None]
    assert [run.verdict for run in verdict.runs] == ["broken", "whole"]


@given(st.lists(st.integers(0, len(CLOSED)), max_size=3), st.randoms())
@settings(max_examples=50)
def test_several_runs_in_several_files(cuts, random):
    """One after the other, or mixed, and cut wherever it may be."""
    runs = [whole(f"{number:016x}", key=number, sessions=3).lines for number in (1, 2, 3)]
    mixed = []
    while any(runs):
        mixed.append(random.choice([run for run in runs if run]).pop(0))
    bounds = [0, *sorted(min(cut, len(mixed)) for cut in cuts), len(mixed)]
    files = [mixed[start:end] for start, end in pairwise(bounds)]
    verdict = judge(*files)
    assert [run.verdict for run in verdict.runs] == ["whole"] * 3
    assert verdict.verdict == "whole"


def test_of_several_runs_the_worst_counts():
    runs = [whole(OTHER).lines, CLOSED]
    assert judge(runs[0], runs[1][:-1]).verdict == "open"
    assert judge(runs[0][:-1], runs[1][:3] + runs[1][4:]).verdict == "broken"


# -- what is wrong, and where --------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", OTHERS)
def test_a_changed_line_is_in_a_range(seq):
    """The next checkpoint shows it, and names the lines since the one before."""
    log = [*CLOSED]
    log[seq - 1] = changed(log[seq - 1], message="another")
    fault = fault_of(log)
    before = max((other for other in CHECKPOINTS if other < seq), default=0)
    after = min(other for other in CHECKPOINTS if other > seq)
    assert where(fault) == ("changed", "log.1", after, after)
    assert fault.seqs == (before + 1, after - 1)


def test_a_changed_line_between_two_checkpoints_is_named_itself():
    log = Log()
    log.checkpoint()
    log.record("session.closed")
    log.checkpoint()
    assert fault_of([*log.lines[:2], changed(log.lines[2], x=1), log.lines[3]]).problem.startswith(
        "shows that the line of seq 3 was changed"
    )


@pytest.mark.parametrize("seq", CHECKPOINTS)
@pytest.mark.parametrize("fields", [{"timestamp": "2026-11-26T12:00:01.000000Z"}, {"size": 1}, {"x": 1}])
def test_a_changed_checkpoint_is_named_itself(seq, fields):
    log = [*CLOSED]
    log[seq - 1] = changed(log[seq - 1], **fields)
    assert where(fault_of(log)) == ("changed", "log.1", seq, seq)


@pytest.mark.parametrize("seq", CHECKPOINTS + KEYS)
@pytest.mark.parametrize("name", ["root", "signature", "public_key", "signed_by", "size"])
def test_a_seal_without_its_values_is_named_itself(seq, name):
    line = CLOSED[seq - 1]
    for value in (None, "", "AAAA", "é" * 44, 1, 2**63, 1.5, True, [], {}):
        if name in json.loads(line):
            log = [*CLOSED]
            log[seq - 1] = changed(line, **{name: value})
            assert where(fault_of(log)) == ("changed", "log.1", seq, seq)


def test_another_spelling_of_a_signature_is_none():
    """Its text is taken out by what it is, once."""
    line = CLOSED[CHECKPOINTS[0] - 1]
    signature = json.loads(line)["signature"]
    for wrong in (
        line.replace(b'"signature":"', b'"signature": "'),
        line.replace(signature[:1].encode(), b"\\u%04x" % ord(signature[0])),
        line.replace(b"{", b'{"signature":"%s",' % signature.encode(), 1),
    ):
        log = [wrong if other is line else other for other in CLOSED]
        assert fault_of(log).what == "changed"


def test_a_label_with_the_name_of_a_field():
    log = Log(labels={"signature": "", "root": "x", "event": "log.key", "session": "7"})
    log.session(1)
    log.close()
    assert judge(log.lines).verdict == "whole"


def test_a_changed_key_that_nobody_has_signed_shows_at_the_first_checkpoint():
    log = whole()
    log.lines[0] = changed(log.lines[0], public_key=b64(public(key_of(99))))
    fault = fault_of(log.lines)
    assert "the log.key at seq 1 was changed" in fault.problem
    assert fault.what == "changed"


@pytest.mark.parametrize("seq", range(1, len(CLOSED)))
def test_a_removed_line_is_named_by_its_seq(seq):
    fault = fault_of(CLOSED[: seq - 1] + CLOSED[seq:])
    assert where(fault) == ("removed", "log.1", seq, seq + 1)
    assert fault.seqs == (seq, seq)
    assert fault.problem == f"is where the line of seq {seq} is missing"


def test_removed_lines_are_named_by_their_seqs():
    fault = fault_of(CLOSED[:4] + CLOSED[9:])
    assert fault.seqs == (5, 9)
    assert fault.problem == "is where the lines of seq 5 to 9 are missing"


def test_a_moved_line_is_named_and_where_it_has_gone():
    fault = fault_of([*CLOSED[:4], *CLOSED[5:8], CLOSED[4], *CLOSED[8:]])
    assert where(fault) == ("moved", "log.1", 5, 6)
    assert "seq 5 comes later, at log.1:8" in fault.problem


def test_a_line_twice_is_named():
    assert where(fault_of([*CLOSED[:5], *CLOSED[4:]])) == ("twice", "log.1", 6, 5)
    assert where(fault_of([*CLOSED[:5], CLOSED[1], *CLOSED[5:]])) == ("twice", "log.1", 6, 2)
    assert where(fault_of([CLOSED[0], *CLOSED])) == ("twice", "log.1", 2, 1)


def test_an_inserted_line_is_named():
    line = changed(CLOSED[4], message="made up")
    fault = fault_of([*CLOSED[:4], line, *CLOSED[4:]])
    assert where(fault) == ("inserted", "log.1", 6, 5)


def test_a_line_behind_the_end_is_named():
    line = changed(CLOSED[3], seq=len(CLOSED) + 1)
    assert where(fault_of([*CLOSED, line])) == ("inserted", "log.1", len(CLOSED) + 1, len(CLOSED) + 1)


@pytest.mark.parametrize("place", [0, 1, len(CLOSED)])
@pytest.mark.parametrize("relay_id", ["", RELAY_ID, OTHER])
@pytest.mark.parametrize("seq", [b"0", b"false", b"0.0", b"-0", b"-1", b"null"])
def test_a_line_without_a_good_seq_is_never_passed_over(seq, relay_id, place):
    """Neither before a run, nor in it, nor behind its end, where no seq is expected."""
    inserted = b'{"seq":%s,"relay_id":"%s","event":"session.closed"}' % (seq, relay_id.encode())
    verdict = judge([*CLOSED[:place], inserted, *CLOSED[place:]])
    assert verdict.verdict == "broken"
    assert [where(fault) for fault in verdict.faults] == [("no record", "log.1", place + 1, None)]
    assert verdict.runs[0].lines == len(CLOSED)


def test_only_the_first_fault_is_told():
    fault = fault_of([*CLOSED[:4], *CLOSED[5:9], *CLOSED[10:], changed(CLOSED[2], seq=99), CLOSED[7]])
    assert where(fault) == ("removed", "log.1", 5, 6)


def test_a_run_without_seals():
    """An unsealed run, or one that somebody has cut the seals out of and numbered again."""
    records = [line for line in CLOSED if not json.loads(line)["event"].startswith("log.")]
    records = [changed(line, seq=seq) for seq, line in enumerate(records, 1)]
    assert where(fault_of(records)) == ("unsealed", "log.1", 1, 1)


@pytest.mark.parametrize("trusted", [(), (public(SIGNER),)])
@pytest.mark.parametrize("data", [b"", b"\n", b"a\nb\n", b"{}\n", b"[]\n", b'{"relay_id":1}\n', bytes(99)])
def test_where_nothing_is_sealed_all_is_broken(data, trusted):
    verdict = judge(data, trusted=trusted)
    assert verdict.verdict == "broken"
    assert verdict.runs == []
    assert verdict.faults[-1].what == "unsealed"


def test_without_key_and_checkpoints_it_is_broken():
    for trusted in ((), (public(SIGNER),)):
        records = [line for line in CLOSED if not json.loads(line)["event"].startswith("log.")]
        assert where(fault_of(records, trusted=trusted)) == ("removed", "log.1", 1, 2)


@pytest.mark.parametrize("line", [b"", b"x", b"{", b"[1]", b"{}", b'{"relay_id":"x","seq":1}', b"\xff"])
def test_a_line_of_no_run_is_named(line):
    verdict = judge([*CLOSED[:4], line, *CLOSED[4:]])
    (fault,) = verdict.faults
    assert where(fault) == ("no record", "log.1", 5, None)
    assert verdict.verdict == "broken"
    assert verdict.runs[0].verdict == "whole"


def test_other_troubles_of_files_are_named():
    long = b"x" * (lines.LINE_LIMIT + 1)
    assert where(fault_of([*CLOSED[:4], long, *CLOSED[4:]])) == ("file", "log.1", 5, None)
    data = b"".join(line + b"\n" for line in CLOSED)
    assert where(fault_of(data[:500] + bytes(9) + data[500:]))[0] == "file"


def test_a_last_line_without_newline_leaves_the_log_open():
    """Somebody may be writing it, and so it counts for nothing."""
    data = b"\n".join(CLOSED)
    verdict = judge(data)
    assert (verdict.verdict, verdict.runs[0].lines) == ("open", len(CLOSED) - 1)
    assert [fault.what for fault in verdict.faults] == ["cut"]
    verdict = judge(data + b"\n{")
    assert (verdict.verdict, verdict.runs[0].verdict) == ("open", "whole")


def test_converted_files_are_recognised():
    data = b"".join(line + b"\r\n" for line in CLOSED)
    assert "something has converted the file" in fault_of(data).problem
    data = b"".join(line + b"\n" for line in CLOSED)
    assert "a byte order mark" in judge(b"\xef\xbb\xbf" + data).faults[0].problem
    assert "UTF-16" in judge(data.decode().encode("utf-16")).faults[1].problem


def test_files_in_another_order_are_broken_with_a_hint():
    verdict = judge(CLOSED[10:], CLOSED[:6], CLOSED[6:10])
    assert verdict.verdict == "broken"
    assert where(verdict.runs[0].fault) == ("moved", "log.1", 1, 11)
    assert verdict.hints == [f"Run {RELAY_ID} needs its files in another order: log.2, log.3, log.1."]
    verdict = judge(CLOSED[:6], CLOSED[10:], CLOSED[6:10])
    assert where(verdict.runs[0].fault) == ("moved", "log.2", 1, 11)
    assert len(verdict.hints) == 1


def test_a_missing_file_is_named_by_its_seqs():
    fault = fault_of(CLOSED[:6], CLOSED[10:])
    assert where(fault) == ("removed", "log.2", 1, 11)
    assert fault.seqs == (7, 10)


def test_a_file_given_twice_is_a_hint():
    verdict = judge(CLOSED[:6], CLOSED[:6], CLOSED[6:])
    assert where(verdict.runs[0].fault) == ("twice", "log.2", 1, 1)
    assert verdict.hints == [f"Lines of run {RELAY_ID} are in two files: was one given twice?"]


def test_no_more_runs_than_there_is_memory_for(monkeypatch):
    monkeypatch.setattr(verify, "RUNS_LIMIT", 1)
    monkeypatch.setattr(verify, "FAULTS_LIMIT", 3)
    verdict = judge(CLOSED, whole(OTHER).lines)
    assert [fault.what for fault in verdict.faults] == ["too many"] * 3
    assert (verdict.verdict, len(verdict.runs)) == ("broken", 1)


def test_what_is_kept_of_a_run_is_small():
    """Whoever writes a log can begin thousands of them, with lines as long as they may be."""
    logs = [Log(f"{number:016}") for number in range(100)]
    long = [log.shaped("log.key", {"public_key": b64(public(log.key)), "x": "x" * 60_000}) for log in logs]
    long = [line.replace(b'"seq":2', b'"seq":1') for line in long]
    tracemalloc.start()
    try:
        verifier = Verifier(keys.check)
        for number, line in enumerate(long, 1):
            verifier.take(lines.Block("log", number, [bytes(bytearray(line))]))
        assert len(verifier.end().runs) == len(long)
        assert tracemalloc.get_traced_memory()[0] < 100 * 10_000
    finally:
        tracemalloc.stop()


def test_a_fault_that_is_not_kept_counts_nevertheless(monkeypatch):
    monkeypatch.setattr(verify, "FAULTS_LIMIT", 1)
    assert judge(b"\n".join(CLOSED) + b"\n{", b"x\n").verdict == "broken"


# -- keys ----------------------------------------------------------------------------------------------------


def test_what_is_older_than_a_key_is_not_sealed_by_it():
    """Whoever has the key of today cannot write what was yesterday (journald: CVE-2023-31439)."""
    log = Log()
    log.session(1)
    log.checkpoint(key_of(2))
    log.renew(2)
    log.close()
    fault = fault_of(log.lines)
    assert where(fault)[0] == "changed"
    assert fault.seq == 4


def test_a_key_that_was_renewed_seals_nothing_more():
    log = Log()
    log.renew(2)
    log.session(1)
    log.checkpoint(key_of(1))
    log.close()
    fault = fault_of(log.lines)
    assert (fault.seq, fault.problem) == (5, "is signed by a key of this run which is not in force here")


@pytest.mark.parametrize("signer", [None, 3, 2])
def test_each_key_is_signed_by_the_one_before(signer):
    log = Log()
    log.checkpoint()
    log.key = key_of(2)
    log._write_key(log.key, key_of(signer) if signer else None)
    log.close()
    assert fault_of(log.lines).problem == "is not signed by the key in force before it"


def test_a_key_is_signed_for_its_place():
    """The one that a log has cannot be used at another place, nor over other lines."""
    log = Log()
    log.session(1)
    log.checkpoint()
    log.renew(2)
    log.session(2)
    log.close()
    lines_ = [*log.lines]
    lines_[1] = changed(lines_[1], message="x")
    assert fault_of(lines_).seqs == (1, 3)
    direct = [log.lines[0], changed(log.lines[4], seq=2)]
    assert fault_of(direct).problem.startswith("shows that one of the lines of seq 1 to 2 was changed")


def test_a_wrong_signature_of_the_first_key_is_told_whoever_is_trusted():
    log = [changed(CLOSED[0], public_key=b64(public(key_of(99)))), *CLOSED[1:]]
    for trusted in ((), (public(SIGNER),), (public(key_of(8)),)):
        fault = fault_of(log, trusted=trusted)
        assert where(fault) == ("changed", "log.1", 1, 1)
        assert "its signature is not one for this place" in fault.problem


def test_a_log_sealed_anew_by_another_needs_a_key_to_be_found():
    forged = whole(key=55, signer=key_of(56)).lines
    assert judge(forged).verdict == "whole"
    assert fault_of(forged, trusted=[public(SIGNER)]).what == "signer"
    log = [line.replace(b64(public(key_of(56))).encode(), b64(public(SIGNER)).encode()) for line in forged]
    assert fault_of(log, trusted=[public(SIGNER)]).what == "changed"


def test_two_checkpoints_in_a_row():
    log = Log()
    log.checkpoint()
    log.checkpoint()
    log.close()
    assert judge(log.lines).verdict == "whole"


def test_a_checkpoint_of_other_lines_is_none_though_it_is_signed():
    """Whoever signs must have counted."""
    log = Log()
    log.session(1)
    size, root = 2, root_of(log.lines)
    bare = log.shaped("log.checkpoint", {"size": size, "root": b64(root), "signature": ""})
    text = notes.Checkpoint(log.origin, size, root, notes.sha256(bare).digest()).text()
    log.record("log.checkpoint", size=size, root=b64(root), signature=b64(log.key.sign(text.encode())))
    assert fault_of(log.lines).problem == "is a checkpoint of 2 lines, which is not its place"


# -- notes ---------------------------------------------------------------------------------------------------


def test_notes_that_agree():
    for noted in (SIGNED.notes, SIGNED.notes[::-1], SIGNED.notes[2:3], SIGNED.notes * 2):
        assert judge(CLOSED, noted=noted).verdict == "whole"


def test_notes_of_other_runs_are_left_alone():
    """But it is told that they were not compared with anything."""
    verdict = judge(CLOSED, noted=[*SIGNED.notes, *whole(OTHER, key=5).notes])
    assert verdict.verdict == "whole"
    assert verdict.hints == [
        f"The notes also have checkpoints of run {OTHER}, of which these files have no line."
    ]


def test_notes_that_have_nothing_of_a_run_are_told():
    """The file of another relay, or of something else. Without notes nothing is expected of them."""
    said = f"The notes have no checkpoint of run {RELAY_ID}: they cannot show that its end is missing."
    for noted in ([], whole(OTHER, key=5).notes):
        assert judge(CLOSED, noted=noted).hints[0] == said
    assert judge(CLOSED, noted=SIGNED.notes).hints == judge(CLOSED).hints == []


def test_notes_of_tokens_count_but_may_be_of_any_run():
    """They stand in a directory for all."""
    other = whole(OTHER, key=5).notes
    for noted, verdict in ((SIGNED.notes, "broken"), (other, "open")):
        verifier = Verifier(keys.check, anchored=[notes.parse(note) for note in noted])
        verifier.take(lines.Block("log", 1, CLOSED[:-1]))
        told = verifier.end()
        assert (told.verdict, told.hints) == (verdict, [])


def test_of_many_runs_some_are_named():
    logs = [whole(f"{number:016}", sessions=1) for number in range(7)]
    (hint,) = judge(*(log.lines for log in logs), noted=[]).hints
    assert f"the runs {', '.join(log.relay_id for log in logs[:5])} and 2 more: they" in hint
    assert " more" not in judge(*(log.lines for log in logs[:5]), noted=[]).hints[0]


@pytest.mark.parametrize("count", range(1, len(CLOSED)))
def test_notes_show_that_a_log_was_cut_off(count):
    """The last note speaks of its own record too."""
    fault = fault_of(CLOSED[:count], noted=SIGNED.notes)
    assert fault.what == "notes"
    assert "the log was cut off" in fault.problem
    assert fault.seq == count


def test_notes_show_that_a_log_was_sealed_anew():
    """By whoever has no key; and by whoever has the key, but not the notes."""
    assert fault_of(whole(key=5).lines, noted=SIGNED.notes).what == "notes"
    forged = whole(signer=SIGNER, every=3).lines
    fault = fault_of(forged, noted=SIGNED.notes)
    assert (fault.what, fault.problem) == (
        "notes",
        "comes behind a checkpoint of 6 lines that only the notes have",
    )
    log = Log(signer=SIGNER)
    log.record("relay.active", listen_port=8081)
    for number in (1, 2):
        log.session(number)
    log.checkpoint()
    fault = fault_of(log.lines, noted=SIGNED.notes[:1])
    assert fault.problem == "is another checkpoint than the notes have in its place"


def test_a_note_behind_the_last_checkpoint_that_the_log_has_not():
    log = Log()
    log.checkpoint()
    log.session(1)
    noted = [*log.notes]
    log.checkpoint()
    lines_ = [*log.lines[:4], changed(log.lines[3], seq=5), changed(log.lines[3], seq=6)]
    fault = fault_of(lines_, noted=[*noted, log.notes[-1]])
    assert fault.problem == "the notes have a checkpoint of 4 lines, which the log has not"


GREASE = "\u2014 example.com/witness AAAAAAAA\n"


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("last", [0, 1, 2])
def test_others_may_sign_a_note_too(first, last):
    """Witnesses, and lines that only keep readers tolerant (grease)."""
    body, _, own = SIGNED.notes[0].partition("\n\n")
    note = f"{body}\n\n{GREASE * first}{own * (last + 1)}{GREASE * last}"
    assert judge(CLOSED, noted=[note]).verdict == "whole"


def signed_wrong(note, place):
    """The note with another byte in its signature."""
    body, _, own = note.partition("\n\n")
    dash, name, blob = own.split()
    blob = bytearray(notes.decoded(blob))
    blob[place] ^= 1
    return f"{body}\n\n{dash} {name} {b64(blob)}\n"


def test_a_wrong_signature_by_the_key_in_force_is_broken():
    wrong = signed_wrong(SIGNED.notes[0], -1)
    assert fault_of(CLOSED, noted=[wrong]).problem == "has a note, but a signature of the note is wrong"
    both = SIGNED.notes[0] + wrong.partition("\n\n")[2]
    assert fault_of(CLOSED, noted=[both]).what == "notes"
    short = SIGNED.notes[0].partition("\n\n")[0] + f"\n\n\u2014 {SIGNED.origin} "
    short += b64(notes.key_id(SIGNED.origin, public(SIGNED_KEY))) + "\n"
    assert fault_of(CLOSED, noted=[short]).what == "notes"


SIGNED_KEY = key_of(1)


def test_a_note_that_the_key_in_force_has_not_signed_is_broken():
    other = signed_wrong(SIGNED.notes[0], 0)
    assert "has not signed the note" in fault_of(CLOSED, noted=[other]).problem
    body = SIGNED.notes[0].partition("\n\n")[0]
    assert fault_of(CLOSED, noted=[f"{body}\n\n{GREASE}"]).what == "notes"


def test_another_root_in_a_note_is_broken():
    body, _, own = SIGNED.notes[0].partition("\n\n")
    lines_ = body.split("\n")
    lines_[2] = b64(bytes(32))
    assert fault_of(CLOSED, noted=["\n".join(lines_) + "\n\n" + own]).what == "notes"
