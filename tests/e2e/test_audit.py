"""`mprelayctl verify` and `prove`, as an operator or an auditor has them."""

import gzip
import json
import os
import subprocess
import sys

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: cryptography, which Wine 8 cannot load", allow_module_level=True)

import zstandard
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from support import rich, witness
from support.control import CTL, ctl
from support.formats import FORMATS
from support.sealed import RELAY_ID, Log, b64, key_of, public, whole

from mprelay.audit import program
from mprelay.ctl.program import make_parser

SIGNER = key_of(7)
LOG = whole(signer=SIGNER)
OTHER = whole("00000000000000aa", key=5)
KEY = b64(public(SIGNER))


@pytest.fixture
def log(tmp_path):
    """A whole log in a file."""
    path = tmp_path / "log"
    path.write_bytes(LOG.data)
    return path


def verify(*words, code=0):
    """Run `verify`; return what it says."""
    done = ctl(None, "verify", *map(str, words))
    assert (done.returncode, done.stderr) == (code, "")
    return json.loads(done.stdout)


def from_stdin(data, name="-"):
    """Run `verify` with something on its standard input, by another name of it too."""
    return subprocess.run([CTL, "verify", name], input=data, capture_output=True, timeout=60, check=False)


def refused(*words, code=2):
    """Run a command that cannot be done; return what it complains of."""
    done = ctl(None, *map(str, words))
    assert (done.returncode, done.stdout) == (code, "")
    return done.stderr


def shown(capsys, *words):
    """What a terminal would show; and the exit code."""
    code = program.run(make_parser().parse_args([*map(str, words)]), as_json=False)
    return code, capsys.readouterr().out


# -- verify --------------------------------------------------------------------------------------------------


def test_the_exit_code_says_it(log, tmp_path):
    verdict = verify(log)
    assert verdict["verdict"] == "whole"
    assert verdict["runs"][0]["relay_id"] == RELAY_ID
    cut, broken = tmp_path / "cut", tmp_path / "broken"
    cut.write_bytes(b"".join(line + b"\n" for line in LOG.lines[:-1]))
    assert verify(cut, code=3)["runs"][0]["unsealed"] == [20, 20]
    broken.write_bytes(b"".join(line + b"\n" for line in LOG.lines[:3] + LOG.lines[4:]))
    (run,) = verify(broken, code=1)["runs"]
    assert run["fault"] == {
        "what": "removed",
        "file": str(broken),
        "line": 4,
        "seq": 5,
        "seqs": [4, 4],
        "problem": "is where the line of seq 4 is missing",
    }
    other = tmp_path / "other"
    other.write_bytes(OTHER.data)
    assert verify(log, other)["verdict"] == "whole"
    assert verify(other, cut, code=3)["verdict"] == "open"
    assert verify(broken, cut, other, code=1)["verdict"] == "broken"
    other.write_bytes(b"")
    assert verify(other, code=1)["faults"][0]["what"] == "unsealed"


def test_a_run_that_was_rotated_and_compressed(tmp_path):
    """In the order of writing, however the files are called."""
    paths = [tmp_path / name for name in ("log.2.zst", "log.1.gz", "log")]
    parts = [b"".join(line + b"\n" for line in LOG.lines[at : at + 7]) for at in (0, 7, 14)]
    data = [zstandard.compress(parts[0]), gzip.compress(parts[1][:99]) + gzip.compress(parts[1][99:]), parts[2]]
    for path, written in zip(paths, data, strict=True):
        path.write_bytes(written)
    assert verify(*paths)["verdict"] == "whole"
    verdict = verify(*paths[::-1], code=1)
    assert verdict["hints"] == [
        f"Run {RELAY_ID} needs its files in another order: {', '.join(map(str, paths))}.",
    ]


@pytest.mark.parametrize("data", [LOG.data, gzip.compress(LOG.data)], ids=["plain", "gzip"])
def test_a_log_from_stdin(data):
    done = from_stdin(data)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_pipe_with_a_name_is_read_once(proof):
    """A shell's `<(…)` has one. What was read to tell a proof from a log would be missing the second time."""
    logs = {LOG.data: "whole", gzip.compress(LOG.data): "whole"}
    for data, verdict in (logs | {proof.read_bytes(): "proved"}).items():
        done = from_stdin(data, "/dev/stdin")
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout)["verdict"] == verdict


def test_keys_in_each_form(log, tmp_path):
    public_key, path = SIGNER.public_key(), tmp_path / "key"
    ssh = public_key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for given in (KEY, ssh.decode(), path):
        path.write_bytes(pem)
        assert verify(log, "--key", given)["runs"][0]["signer_known"]
    other = b64(public(key_of(8)))
    assert verify(log, "--key", other, "--key", KEY)["verdict"] == "whole"
    assert verify(log, "--key", other, code=1)["runs"][0]["fault"]["what"] == "signer"
    path.write_bytes(SIGNER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert "is a private key" in refused("verify", log, "--key", path)
    assert "No such file" in refused("verify", log, "--key", "AAAA")


def test_notes_from_elsewhere(log, tmp_path):
    """Others may keep theirs in the same file."""
    notes = tmp_path / "notes"
    notes.write_text("elsewhere\n\n\u2014 elsewhere AAAA\n" + "".join(OTHER.notes + LOG.notes))
    assert verify(log, "--notes", notes)["verdict"] == "whole"
    log.write_bytes(b"".join(line + b"\n" for line in LOG.lines[:-3]))
    assert verify(log, "--notes", notes, code=1)["runs"][0]["fault"]["what"] == "notes"
    log.write_bytes(LOG.data)
    notes.write_text("".join(LOG.notes).replace("record ", "", 1))
    assert "note 1 is damaged" in refused("verify", log, "--notes", notes)
    notes.write_bytes(b"\xff")
    assert "is no text" in refused("verify", log, "--notes", notes)
    assert "No such file" in refused("verify", log, "--notes", tmp_path / "none")


def test_a_last_note_that_is_not_complete_counts_for_nothing(log, tmp_path):
    """It is being written, or its relay was killed on a full disk. The notes before it still count."""
    notes = tmp_path / "notes"
    *before, last = LOG.notes
    for size in (1, len(last) // 2, len(last) - 99, len(last) - 1):
        notes.write_text("".join(before) + last[:size])
        assert verify(log, "--notes", notes)["verdict"] == "whole"
    cut_off = tmp_path / "cut-off"
    cut_off.write_bytes(b"".join(line + b"\n" for line in LOG.lines[:2]))
    assert verify(cut_off, "--notes", notes, code=1)["runs"][0]["fault"]["what"] == "notes"


def test_what_cannot_be_read_is_named(tmp_path, log):
    assert "none: No such file or directory" in refused("verify", tmp_path / "none")
    assert "none: No such file or directory" in refused("verify", log, tmp_path / "none")
    assert "Is a directory" in refused("verify", tmp_path)
    assert "usage: " in refused("verify")


def test_without_the_library_it_says_what_to_install(tmp_path, log, monkeypatch):
    (tmp_path / "cryptography.py").write_text("raise ModuleNotFoundError('none', name='cryptography')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = "mprelayctl: checking signatures needs a library that is missing: pip install 'mprelay[seal]'\n"
    assert refused("verify", log) == refused("prove", log, "--session", 1) == said
    assert ctl(None, "--help").returncode == 0


def test_a_person_reads_text(log, capsys):
    code, text = shown(capsys, "verify", log)
    assert code == 0
    assert text.splitlines() == [
        f"run {RELAY_ID}: whole, signer not known ({KEY})",
        "  21 lines, 5 checkpoints, the last of 2026-11-26T12:00:00.000021Z",
    ]
    assert f"run {RELAY_ID}: whole, signed by {KEY}\n" in shown(capsys, "verify", log, "--key", KEY)[1]
    log.write_bytes(b"".join(line + b"\n" for line in LOG.lines[:9]))
    code, text = shown(capsys, "verify", log)
    assert code == 3
    assert "the run is not closed, and its last 2 lines are not sealed (seq 8 to 9)" in text
    log.write_bytes(b"".join(line + b"\n" for line in LOG.lines[:8]))
    assert shown(capsys, "verify", log)[1].endswith("and its last line is not sealed (seq 8)\n")
    log.write_bytes(b"".join(line + b"\n" for line in LOG.lines[:7]))
    assert shown(capsys, "verify", log)[1].endswith("the run is not closed\n")
    log.write_bytes(b"".join(line + b"\n" for line in LOG.lines[:9] + LOG.lines[10:]) + b"{")
    code, text = shown(capsys, "verify", log)
    assert code == 1
    assert text.splitlines() == [
        f"open: {log}:21 is cut off: it has no newline",
        f"run {RELAY_ID}: broken, signer not known ({KEY})",
        f"  {log}:10 (seq 11) is where the line of seq 10 is missing",
        "  lines that are proved nevertheless: 7, up to seq 7",
    ]
    log.write_bytes(b"")
    assert shown(capsys, "verify", log) == (1, "broken: nothing in it is sealed\n")


def test_nothing_in_a_log_is_an_order_to_a_terminal(tmp_path, capsys):
    """Neither a name, nor a message, nor where the file is."""
    evil = "\x1b]0;x\x07\x9b\u202e"
    log = whole(evil)
    path = tmp_path / evil
    for data in (log.data, log.data[99:], LOG.data[99:]):
        path.write_bytes(data)
        text = shown(capsys, "verify", path)[1]
        assert not set(text) & set("\x1b\x07\x9b\u202e")
        assert "\\x1b]0;x\\x07\\x9b\\u202e" in text
    assert set(ctl(None, "verify", str(path)).stdout) <= {chr(code) for code in (*range(32, 127), 10)}


# -- prove ---------------------------------------------------------------------------------------------------


@pytest.fixture
def proof(log, tmp_path):
    """A proof of a session in a file."""
    path = tmp_path / "proof"
    done = ctl(None, "prove", str(log), "--session", "3", "--output", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return path


def test_a_proof_needs_no_log(proof, log, capsys):
    log.unlink()
    said = verify(proof, "--key", KEY)
    assert (said["verdict"], said["relay_id"], said["session"], said["signer_known"]) == (
        "proved",
        RELAY_ID,
        3,
        True,
    )
    assert [record["event"] for record in said["records"]] == ["connection.accepted", "session.closed"]
    assert [record["seq"] for record in said["records"]] == [8, 9]
    done = subprocess.run(
        [CTL, "verify", "-"], input=proof.read_bytes(), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0
    code, text = shown(capsys, "verify", proof)
    assert code == 0
    assert text.startswith(f"proved: 2 lines of session 3 are in the log of run {RELAY_ID}\n  signer not known (")
    assert "  seq 8  2026-11-26T12:00:00.000008Z  connection.accepted  Message 8.\n" in text
    assert text.endswith("This does not prove that the log has no other lines of the session.\n")
    assert f"  signed by {KEY}\n" in shown(capsys, "verify", proof, "--key", KEY)[1]


def test_a_wrong_proof_is_broken(proof, capsys):
    proof.write_text(proof.read_text().replace("4711", "4712"))
    assert verify(proof, code=1) == {
        "verdict": "broken",
        "file": str(proof),
        "problem": "has a line that is not in the log, at index 7",
    }
    assert shown(capsys, "verify", proof) == (
        1,
        f"broken: {proof} has a line that is not in the log, at index 7\n",
    )
    proof.write_text('{"proof": 1')
    assert verify(proof, code=1)["problem"] == "is not JSON"
    assert "--notes is about a log" in refused("verify", proof, "--notes", proof)


def test_a_proof_of_lines_as_no_relay_writes_them(tmp_path):
    """Its maker may have made the log too. Nothing in it is an order to a terminal, or makes the reader fail."""
    log = Log()
    log.record("session.closed", session=1, message="\x9b31m\u202e\x7f")
    log.lines.append(
        log.shaped("session.closed", {"session": 1})[:-1] + b',"x":' + b"[" * 1000 + b"]" * 1000 + b"}"
    )
    log.checkpoint()
    path, proof = tmp_path / "log", tmp_path / "proof"
    path.write_bytes(log.data)
    done = subprocess.run([CTL, "prove", path, "--session", "1"], capture_output=True, timeout=60, check=True)
    assert done.stdout.isascii()
    assert b"\x7f" not in done.stdout
    proof.write_bytes(done.stdout)
    assert [record["seq"] for record in verify(proof)["records"]] == [2, 3]


def test_a_terminal_with_few_characters_shows_the_others_escaped(tmp_path):
    """As in a locale of Latin 1."""
    path = tmp_path / "\u6771\u4eac"
    path.write_bytes(LOG.data[1:])
    terminal, inner = os.openpty()
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    command = [CTL, "verify", path]
    done = subprocess.run(command, stdout=inner, stderr=inner, env=environment, timeout=60, check=False)
    os.close(inner)
    with open(terminal, "rb") as stream:  # noqa: PTH123 - a descriptor has no path
        said = stream.read1()
    assert done.returncode == 1
    assert b"\\u6771\\u4eac:1 is not JSON\r\n" in said


def test_a_proof_that_is_too_large_is_told_as_that(proof, capsys, monkeypatch):
    """And not as one that is no JSON."""
    monkeypatch.setattr(program, "_PROOF_LIMIT", proof.stat().st_size - 1)
    assert program.run(make_parser().parse_args(["verify", str(proof)]), as_json=False) == 2
    assert "a proof has at most" in capsys.readouterr().err
    monkeypatch.undo()
    assert shown(capsys, "verify", proof)[0] == 0


def test_a_proof_beside_other_files_is_no_log(proof, log):
    assert verify(log, proof, code=1)["faults"][0]["what"] == "no record"


def test_a_proof_goes_to_stdout(log, proof):
    done = ctl(None, "prove", str(log), "--session", "3")
    assert done.returncode == 0
    assert done.stdout.encode() == proof.read_bytes()


def test_what_cannot_be_proved(log, tmp_path):
    assert refused("prove", log, "--session", 99, code=1) == "mprelayctl: no line of session 99 is in the files\n"
    assert "no line" in refused("prove", log, "--session", 3, "--relay", "x", code=1)
    assert "reads its files twice" in refused("prove", "-", "--session", 3)
    os.mkfifo(tmp_path / "fifo")
    assert f"reads its files twice, which {tmp_path / 'fifo'} cannot" in refused(
        "prove", tmp_path / "fifo", "--session", 3
    )
    assert "a session's number has" in refused("prove", log, "--session", "x")
    assert "a session's number has" in refused("prove", log, "--session", "9" * 19)
    assert "Is a directory" in refused("prove", log, "--session", 3, "--output", tmp_path)
    other = tmp_path / "other"
    other.write_bytes(OTHER.data)
    said = refused("prove", log, other, "--session", 3)
    assert "several runs have a session 3: --relay chooses one of 00000000000000aa, 3f0c9a1d2b4e5f60" in said
    assert ctl(None, "prove", str(log), str(other), "--session", "3", "--relay", RELAY_ID).returncode == 0


def test_what_is_not_sealed_is_not_proved(log, tmp_path):
    log.write_bytes(b"".join(line + b"\n" for line in LOG.lines[:6]))
    assert "has no good checkpoint" in refused("prove", log, "--session", 1, code=1)
    log.write_bytes(b"".join(line + b"\n" for line in LOG.lines[:2] + LOG.lines[3:6]))
    said = refused("prove", log, "--session", 1, code=1)
    assert "(seq 4) is where the line of seq 3 is missing" in said
    beginning = tmp_path / "beginning"
    beginning.write_bytes(b"".join(line + b"\n" for line in LOG.lines[:9]))
    log.write_bytes(b"".join(line + b"\n" for line in LOG.lines[9:]))
    said = refused("prove", log, beginning, "--session", 1, code=1)
    assert f"needs its files in another order: {beginning}, {log}." in said
    log.write_bytes(b"".join(line + b"\n" for line in LOG.lines[:9]))
    assert refused("prove", log, "--session", 3, code=1) == "mprelayctl: no line of session 3 is sealed yet\n"
    split = whole(every=99, renewed=99)
    split.lines = split.lines[:3]
    split.checkpoint()
    split.lines.append(split.shaped("session.closed", {"session": 1}))
    log.write_bytes(split.data)
    done = ctl(None, "prove", str(log), "--session", "1", "--output", str(tmp_path / "proof"))
    assert done.returncode == 3
    assert "nothing has sealed them" in done.stderr
    assert len(verify(tmp_path / "proof")["records"]) == 1


# -- with a relay, and with others ---------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["json", *FORMATS])
def test_what_a_relay_has_sealed(tmp_path, tool, log_format):
    """In each format: the log is whole, agrees with its notes, and each session of it can be proved."""
    tool("openssl")
    log, notes, key, proof = (tmp_path / name for name in ("log", "notes", "key", "proof"))
    key.write_bytes(SIGNER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    written = rich.busy(log_format, tmp_path, "--seal", "--seal-key", str(key), "--checkpoint-to", str(notes))
    log.write_bytes(written)
    pem = SIGNER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert witness.judge(written, [pem]) == (witness.WHOLE, "closed")
    run = verify(log, "--key", KEY, "--notes", notes)["runs"][0]
    assert run["verdict"] == "whole"
    assert run["sealed"] == run["lines"] == written.count(b"\n")
    for session in (1, 5):
        done = ctl(None, "prove", str(log), "--session", str(session), "--output", str(proof))
        assert done.returncode == 0
        records = verify(proof, "--key", KEY)["records"]
        assert {record["session"] for record in records} == {session}
        assert records[-1]["event"] == "session.closed"


def test_openssl_agrees(tmp_path):
    """The signature of a checkpoint is one that another program takes, over the text of its note."""
    body, _, own = LOG.notes[0].partition("\n\n")
    blob = subprocess.run(["base64", "-d"], input=own.split()[2].encode(), capture_output=True, check=True).stdout
    text, signature, key = tmp_path / "text", tmp_path / "signature", tmp_path / "key"
    text.write_text(f"{body}\n")
    signature.write_bytes(blob[4:])
    key.write_bytes(key_of(1).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        key,
        "-rawin",
        "-in",
        text,
        "-sigfile",
        signature,
    ]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    text.write_text(f"{body} \n")
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0
