"""A verifier that was written from docs/seal.md alone says of every log what `mprelayctl verify` says."""

import base64
import contextlib
import io
import json
import subprocess
import sys
from hashlib import sha256
from typing import NamedTuple

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: openssl, and cryptography, which Wine 8 cannot load", allow_module_level=True)

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import rich, witness
from support.control import ctl
from support.formats import FORMATS
from support.patches import CHECKPOINT_LINES, IN_SUPERVISOR, KEY_CHECKPOINTS, assigned, with_site
from support.sealed import Log, b64, key_of, public, root_of, whole
from support.witness import BROKEN, OPEN, WHOLE

from mprelay.audit import program
from mprelay.ctl.program import make_parser

pytestmark = pytest.mark.posix("signals, and openssl")

OWNER = key_of(7)
STRANGER = key_of(8)


def pem(key):
    """The public half of a key, in PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def verdict(data, path, *trusted, judge=witness.judge):
    """What both say of a log or a proof, which must be the same. `trusted`: keys in PEM."""
    path.write_bytes(data)
    options = [word for key in trusted for word in ("--key", b64(base64.b64decode(key.split("\n")[1])[12:]))]
    asked = make_parser().parse_args(["verify", *options, str(path)])
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = program.run(asked, as_json=True)
    mine, why = judge(data, trusted)
    assert mine == code, (why, said.getvalue())
    return code


# -- what a relay has written --------------------------------------------------------------------------------


class Written(NamedTuple):
    """The log of a relay."""

    data: bytes
    trusted: tuple[str, ...]
    """The keys that vouch for it, in PEM. None: none does."""


@pytest.fixture(scope="module", params=[(log, owned) for log in ("json", *FORMATS) for owned in (False, True)])
def written(request, tool, tmp_path_factory):
    """A log in some format, with or without --seal-key, that has several checkpoints and keys."""
    tool("openssl")
    log_format, owned = request.param
    place = tmp_path_factory.mktemp("relay")
    options = ["--seal"]
    if owned:
        key = place / "key"
        key.write_bytes(OWNER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key.chmod(0o600)
        options += ["--seal-key", str(key)]
    sooner = f"{assigned(KEY_CHECKPOINTS, '2')}; {assigned(CHECKPOINT_LINES, '9')}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", with_site(place, IN_SUPERVISOR + sooner)["PYTHONPATH"])
        data = rich.short(log_format, *options)
    return Written(data, (pem(OWNER),) if owned else ())


def test_the_log_of_a_relay_is_whole(written, tmp_path):
    """With the key that vouches for it, and with that of the run; but not with a stranger's."""
    log = tmp_path / "log"
    assert verdict(written.data, log) == verdict(written.data, log, *written.trusted) == WHOLE
    assert verdict(written.data, log, pem(STRANGER), *written.trusted) == (WHOLE if written.trusted else BROKEN)
    assert verdict(written.data, log, pem(STRANGER)) == BROKEN
    (tmp_path / "key").write_text(pem(OWNER))
    done = ctl(None, "verify", "--key", str(tmp_path / "key"), str(log))
    assert done.returncode == (0 if written.trusted else 1)
    assert written.data.count(b'"log.checkpoint"') >= 4
    assert written.data.count(b'"log.key"') >= 2


def test_it_needs_nothing_of_mprelay(written, tmp_path):
    """As a program, in a Python that has no packages but its own."""
    (tmp_path / "log").write_bytes(written.data)
    (tmp_path / "key").write_text(pem(OWNER))
    for words, code in ((["log"], 0), (["log", "key"], 0 if written.trusted else 1)):
        command = [sys.executable, "-I", "-S", witness.__file__, *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (code, b"")


def test_a_log_that_was_cut_off_is_open(written, tmp_path):
    """Behind any line; and within the last one."""
    lines = written.data.splitlines(keepends=True)
    for count in range(1, len(lines)):
        assert verdict(b"".join(lines[:count]), tmp_path / "log", *written.trusted) == OPEN
    assert verdict(written.data[:-1], tmp_path / "log", *written.trusted) == OPEN
    assert verdict(lines[0][:-1], tmp_path / "log") == BROKEN  # there is no line at all
    assert verdict(b"", tmp_path / "log") == BROKEN


def changed(draw, data):
    """One to three bytes are others: anywhere, or where no other checkpoint covers them."""
    log = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(log) - 1) | st.integers(max(0, len(log) - 900), len(log) - 1))
        log[place] = draw(st.integers(0, 255) | st.sampled_from(b'\0\n\r" {}\\0A=,:+/'))
    return bytes(log)


def squeezed(draw, data):
    """Bytes are gone, or more."""
    place = draw(st.integers(0, len(data)) | st.integers(max(0, len(data) - 900), len(data)))
    return data[:place] + draw(st.sampled_from([b"", b"\0", b"\n", b"\r", b" ", b"{}\n"])) + data[place + 1 :]


def rearranged(draw, data):
    """Lines are gone, or stand elsewhere, or twice."""
    lines = data.splitlines(keepends=True)
    one, two = sorted((draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))))
    match draw(st.integers(0, 5)):
        case 0:
            del lines[one : two + 1]
        case 1:
            del lines[one]
        case 2:
            lines[one], lines[two] = lines[two], lines[one]
        case 3:
            lines.insert(one, lines[two])
        case 4:
            lines.insert(two + 1, lines[one])
        case 5:
            lines.insert(two + 1, lines.pop(one))
    return b"".join(lines)


def exchanged(draw, data):
    """What one record of the seal says, another says too."""
    lines = data.splitlines(keepends=True)
    seals = [place for place, line in enumerate(lines) if b'"log.' in line]
    one, two = draw(st.sampled_from(seals)), draw(st.sampled_from(seals))
    name = draw(st.sampled_from([b"signature", b"root", b"size", b"public_key", b"signed_by"]))
    before, mark, rest = lines[one].partition(b'"%s":' % name)
    _, other, more = lines[two].partition(b'"%s":' % name)
    if mark and other:
        value = more.replace(b"}", b",").split(b",")[0]
        lines[one] = before + mark + value + rest[len(rest.replace(b"}", b",").split(b",")[0]) :]
    return b"".join(lines)


CHANGES = [changed, squeezed, rearranged, exchanged]


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_of_a_log_that_was_changed_both_say_the_same(written, tmp_path, count):
    """It may have been open before: then what stands behind its last checkpoint can be changed."""
    lines = written.data.splitlines(keepends=True)

    @settings(max_examples=count, deadline=None, suppress_health_check=[*HealthCheck], database=None)
    @given(st.sampled_from(CHANGES), st.booleans(), st.integers(1, len(lines)) | st.just(len(lines)), st.data())
    def change(how, known, length, data):
        log = b"".join(lines[:length])
        made = how(data.draw, log)
        code = verdict(made, tmp_path / "log", *(written.trusted if known else ()))
        assert code != WHOLE or made == written.data

    change()


# -- proofs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proof(written, tmp_path_factory):
    """A proof of a session in it."""
    place = tmp_path_factory.mktemp("proof")
    (place / "log").write_bytes(written.data)
    done = ctl(None, "prove", str(place / "log"), "--session", "2", "--output", str(place / "proof"))
    assert (done.returncode, done.stderr) == (0, "")
    return (place / "proof").read_bytes()


def foreign(draw, proof, _entry):
    """A note that has another signature too, or a line that is none."""
    note, own = proof["note"], proof["note"].splitlines(keepends=True)[-1]
    more = [
        "\u2014 witness+1 AAAAAA==\n",
        own,
        own[:-6] + "AA==\n",
        "\u2014 x AAAB=\n",
        "\u2014  AAAA\n",
        "x\n",
        "\n",
    ]
    proof["note"] = draw(
        st.sampled_from([note + line for line in more] + [note[:-1], note.replace("\n\n", "\n")])
    )


def lengthened(draw, proof, entry):
    """A path is longer, or another."""
    entry["path"].insert(draw(st.integers(0, 9)), draw(st.sampled_from(proof["keys"][-1]["path"])))


def shortened(_draw, _proof, entry):
    """A path is shorter."""
    entry["path"].pop()


def displaced(draw, _proof, entry):
    """A line is at another place, or at none."""
    entry["index"] = draw(st.sampled_from([True, 1.0, -1, "1", None, 2**70, entry["index"] + 1, entry["index"]]))


def left_out(draw, proof, _entry):
    """A key or a line is not in it. Nobody can tell that of a line."""
    draw(st.sampled_from([proof["keys"], proof["lines"]])).pop(draw(st.integers(0, 1)))


def mixed(draw, proof, entry):
    """A line stands at another place in it, or a key among the lines."""
    draw(st.sampled_from([proof["keys"], proof["lines"]])).insert(draw(st.integers(0, 9)), entry)


def renamed(draw, proof, _entry):
    """It says that it is about something else."""
    name = draw(st.sampled_from(["proof", "relay_id", "session", "more"]))
    proof[name] = draw(st.sampled_from([1, 2.0, True, None, "x", "mprelay proof v1"]))


def spoilt(draw, _proof, _entry):
    """A byte is another one."""
    return draw(st.integers(0, 2**16)), draw(st.integers(1, 255))


SPOILINGS = [foreign, lengthened, shortened, displaced, left_out, mixed, renamed, spoilt]


def test_a_proof_proves(written, proof, tmp_path):
    for trusted in ((), written.trusted):
        assert verdict(proof, tmp_path / "proof", *trusted, judge=witness.judge_proof) == WHOLE
    assert verdict(proof, tmp_path / "proof", pem(STRANGER), judge=witness.judge_proof) == BROKEN


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_of_a_proof_that_was_changed_both_say_the_same(written, proof, tmp_path, count):
    @settings(max_examples=count, deadline=None, suppress_health_check=[*HealthCheck], database=None)
    @given(st.sampled_from(SPOILINGS), st.booleans(), st.data())
    def change(how, known, data):
        made = json.loads(proof)
        entry = data.draw(st.sampled_from(made["keys"] + made["lines"]))
        byte = how(data.draw, made, entry)
        text = bytearray(json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode())
        if byte is not None:
            text[byte[0] % len(text)] ^= byte[1]
        trusted = written.trusted if known else ()
        code = verdict(bytes(text), tmp_path / "proof", *trusted, judge=witness.judge_proof)
        assert code == BROKEN or json.loads(text)["keys"] == json.loads(proof)["keys"]

    change()


# -- what only somebody with keys can write ------------------------------------------------------------------


def respelled(log):
    """Write the last signature otherwise: its Base64 has four bits that mean nothing."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    signature = json.loads(log.lines[-1])["signature"]
    last = letters[letters.index(signature[-3]) + 1]
    assert base64.b64decode(signature) == base64.b64decode(signature[:-3] + last + "==")
    return log.data.replace(signature.encode(), f"{signature[:-3]}{last}==".encode())


def escaped(log):
    """Write the last signature otherwise: by an escape of JSON."""
    signature = json.loads(log.lines[-1])["signature"].encode()
    return log.data.replace(signature, b"\\u%04x%s" % (signature[0], signature[1:]))


def signed_by(which):
    """A checkpoint in the middle of a run of three keys, by another than the one in force."""
    log = Log(signer=OWNER)
    for number in (2, 3):
        log.record("session.closed")
        log.checkpoint(key_of(which) if number == 3 else None)
        log.renew(number)
    log.close()
    return log.data


def renewed_by(which):
    """A key that another signs than the one in force."""
    log = Log(signer=OWNER)
    log.checkpoint()
    log.renew(2)
    log.checkpoint()
    log.key = key_of(which)
    log.renew(3)
    log.close()
    return log.data


def unsigned_key():
    """A key that nobody signs, in the middle of a run."""
    log = Log(signer=OWNER)
    log.checkpoint()
    log.key = key_of(2)
    log._write_key(log.key, None)
    log.close()
    return log.data


def renewed_elsewhere():
    """A key that its predecessor has signed for another place: a line before it is another."""
    one, two = Log(signer=OWNER), Log(signer=OWNER)
    for log, event in ((one, "connection.rejected"), (two, "connection.accepted")):
        log.record(event)
        log.renew(2)
    two.lines[-1] = one.lines[-1]
    two.close()
    return two.data


def renewed_anywhere():
    """A key that does not follow on a checkpoint."""
    log = Log(signer=OWNER)
    log.record("session.closed")
    log.renew(2)
    log.record("session.closed")
    log.close()
    return log.data


def extended(event, *, close=True):
    """More behind the last line of a run."""
    log = whole(signer=OWNER)
    log.record(event)
    if close:
        log.checkpoint()
    return log.data


def interrupted():
    """Something stands between relay.stopped and the last checkpoint."""
    log = whole(signer=OWNER)
    del log.lines[-1]
    log.record("relay.stats")
    log.checkpoint()
    return log.data


def mistyped():
    """A good signature, under a `size` that is no integer."""
    log = Log(signer=OWNER)
    log.record("relay.stopped")
    fields = {"size": 2.0, "root": b64(root_of(log.lines)), "signature": ""}
    bare = sha256(log.shaped("log.checkpoint", fields)).digest()
    signature = log.key.sign(f"{log.origin}\n2\n{fields['root']}\nrecord {b64(bare)}\n".encode())
    log.record("log.checkpoint", **fields | {"signature": b64(signature)})
    return log.data


LOG = whole(signer=OWNER)
CASES = {
    "whole": (LOG.data, WHOLE),
    "no more than its key": (Log(signer=OWNER).data, OPEN),
    "the last signature respelled": (respelled(LOG), BROKEN),
    "the last signature escaped": (escaped(LOG), BROKEN),
    "a checkpoint of an earlier key": (signed_by(1), BROKEN),
    "a checkpoint of a later key": (signed_by(3), BROKEN),
    "a checkpoint of the owner": (signed_by(7), BROKEN),
    "a key signed by an earlier one": (renewed_by(1), BROKEN),
    "a key signed by a stranger": (renewed_by(8), BROKEN),
    "a key signed by nobody": (unsigned_key(), BROKEN),
    "a key signed for another log": (renewed_elsewhere(), BROKEN),
    "a key without a checkpoint before it": (renewed_anywhere(), WHOLE),
    "a record behind the end": (extended("relay.stats", close=False), BROKEN),
    "a second end": (extended("relay.stopped"), BROKEN),
    "no checkpoint right behind the end": (interrupted(), OPEN),
    "a size that is no integer": (mistyped(), BROKEN),
    "a run without a key": (b"".join(line + b"\n" for line in LOG.lines[1:]), BROKEN),
    "two runs": (LOG.data + whole("00000000000000aa", key=3, signer=OWNER).data, WHOLE),
    "two runs, one by a stranger": (LOG.data + whole("00000000000000aa", signer=STRANGER).data, BROKEN),
    "two runs, one open": (LOG.data + Log("00000000000000aa", signer=OWNER).data, OPEN),
    "the same run twice": (LOG.data * 2, BROKEN),
    "an empty line": (LOG.data + b"\n", BROKEN),
    "carriage returns": (LOG.data.replace(b"\n", b"\r\n"), BROKEN),
    "a byte order mark": (b"\xef\xbb\xbf" + LOG.data, BROKEN),
    "UTF-16": (LOG.data.decode().encode("utf-16"), BROKEN),
    "a hole": (b"\0" * 4096 + LOG.data, BROKEN),
    "a hole behind the end": (LOG.data + b"\0" * 4096, BROKEN),
    "something behind the end": (LOG.data + b"x", OPEN),
    "something long behind the end": (LOG.data + b"x" * 70_000, BROKEN),
    "a line that is too long": (LOG.data + b'{"x":"' + b"x" * 70_000 + b'"}\n', BROKEN),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_made_up(case, tool, tmp_path):
    """Where the owner's key must be found, too."""
    tool("openssl")
    data, code = CASES[case]
    assert verdict(data, tmp_path / "log", pem(OWNER)) == code
    assert verdict(data, tmp_path / "log", pem(STRANGER)) == BROKEN
    if "stranger" not in case:
        assert verdict(data, tmp_path / "log") == code


def test_the_key_of_a_run_may_be_trusted(tmp_path):
    """That is the first one. A later one is as good as unknown."""
    later = key_of(1001)
    assert b64(public(later)).encode() in LOG.data
    for log in (LOG, whole()):
        assert verdict(log.data, tmp_path / "log", pem(key_of(1))) == WHOLE
        assert verdict(log.data, tmp_path / "log", pem(later)) == BROKEN
