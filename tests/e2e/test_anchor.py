"""`mprelayctl anchor`, as cron runs it, and what `verify` says of the tokens."""

import json
import os
import subprocess
import sys

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: openssl, and a library that Wine 8 cannot load", allow_module_level=True)

from support.control import CTL, ctl
from support.sealed import RELAY_ID, whole
from support.tsa import NAME, Authority, accepted, serving

from mprelay.audit import program
from mprelay.ctl.program import make_parser

LOG = whole()
SIZE = len(LOG.lines) - 1
"""What the last checkpoint covers."""


@pytest.fixture(scope="module")
def authority(tool, tmp_path_factory):
    tool("openssl")
    return Authority(tmp_path_factory.mktemp("tsa") / "ours")


@pytest.fixture
def url(authority):
    with serving(lambda heard: authority.reply(heard.body)) as (url, _):
        yield url


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes"
    path.write_text("".join(LOG.notes))
    return path


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(LOG.data)
    return path


def anchor(notes, url, *more, code=0):
    """Run `anchor`; return what it complains of."""
    done = ctl(None, "anchor", "--notes", str(notes), "--tsa", url, *map(str, more))
    assert (done.returncode, done.stdout) == (code, "")
    assert bool(done.stderr) == bool(code)
    return done.stderr


def verify(log, *more, code=0):
    """Run `verify`; return its verdict and what it says of the tokens."""
    done = ctl(None, "verify", str(log), *map(str, more))
    assert (done.returncode, done.stderr) == (code, "")
    said = json.loads(done.stdout)
    return said["verdict"], said["anchors"]


def files(directory):
    return sorted(path.name for path in directory.iterdir() if path.name not in {"notes", "log"})


def test_the_newest_checkpoint_gets_a_token(notes, log, authority, tmp_path):
    """It lies beside the notes, with its note, and openssl accepts it. Then there is nothing to do."""
    with serving(lambda heard: authority.reply(heard.body)) as (url, heard):
        for _ in range(2):
            anchor(notes, url)
        assert len(heard) == 1
        token, note = tmp_path / f"{RELAY_ID}-{SIZE}.tsr", tmp_path / f"{RELAY_ID}-{SIZE}.note"
        assert files(tmp_path) == [note.name, token.name]
        assert note.read_text() == LOG.notes[-1]
        assert accepted(token, note, authority.root)
        verdict, (stamp,) = verify(log, "--anchors", tmp_path, "--tsa-cert", authority.root)
        assert (verdict, stamp["size"], stamp["tsa"], stamp["problem"]) == ("whole", SIZE, NAME, None)
        assert stamp["existed"].endswith("Z")
        assert stamp["proved"]
        other = whole("00000000000000aa")
        notes.write_text(notes.read_text() + other.notes[0] + other.notes[1][:50])
        anchor(notes, url)
        assert len(heard) == 2
        assert len(files(tmp_path)) == 4


def test_tokens_of_other_runs_are_left_alone(notes, log, url, authority, tmp_path):
    other = whole("00000000000000aa")
    notes.write_text(notes.read_text() + other.notes[0])
    anchor(notes, url, "--tsa-cert", authority.root)
    (tmp_path / "something.tsr").write_text("else")
    _, stamps = verify(log, "--anchors", tmp_path)
    assert [(stamp["relay_id"], stamp["existed"]) for stamp in stamps] == [(RELAY_ID, None)]


def test_an_open_log_existed_as_far_as_it_is_sealed(notes, log, url, authority, tmp_path):
    notes.write_text(LOG.notes[0])
    log.write_bytes(b"".join(line + b"\n" for line in LOG.lines[:-2]))
    anchor(notes, url)
    verdict, (stamp,) = verify(log, "--anchors", tmp_path, "--tsa-cert", authority.root, code=3)
    assert (verdict, stamp["size"], stamp["proved"]) == ("open", int(LOG.notes[0].split("\n")[1]), True)


def test_what_a_person_sees(notes, log, url, authority, capsys):
    def shown(*words):
        code = program.run(make_parser().parse_args([*map(str, words)]), as_json=False)
        return code, capsys.readouterr().out

    assert shown("anchor", "--notes", notes, "--tsa", url) == (0, "")
    anchors = log, "--anchors", notes.parent
    assert f"a token for {SIZE} lines is there, and was not checked" in shown("verify", *anchors)[1]
    code, text = shown("verify", *anchors, "--tsa-cert", authority.root)
    (line,) = [line for line in text.splitlines() if "existed" in line]
    assert code == 0
    assert line.startswith(f"run {RELAY_ID}: its first {SIZE} lines existed at 2")
    assert line.endswith(f"Z (TSA {NAME})")


def test_what_a_program_sees(notes, url, authority):
    done = ctl(None, "anchor", "--notes", str(notes), "--tsa", url, "--tsa-cert", str(authority.root), "--json")
    stamp = json.loads(done.stdout)
    assert (done.returncode, stamp["relay_id"], stamp["size"], stamp["tsa"]) == (0, RELAY_ID, SIZE, NAME)


def test_a_log_that_somebody_wrote_anew(notes, log, url, authority, tmp_path):
    """Its keys are right, but the token is for another."""
    anchor(notes, url)
    again = whole(sessions=7)
    log.write_bytes(again.data)
    verdict, (stamp,) = verify(log, "--anchors", tmp_path, "--tsa-cert", authority.root, code=1)
    assert (verdict, stamp["problem"], stamp["proved"]) == ("broken", None, False)


@pytest.mark.parametrize(
    "what", ["other root", "garbage", "other note's token", "no note", "other note", "renamed", "no text"]
)
def test_tokens_that_do_not_fit(what, notes, log, url, authority):
    """A log that is whole is broken with them."""
    tmp_path = notes.parent
    anchor(notes, url)
    token, root = tmp_path / f"{RELAY_ID}-{SIZE}.tsr", authority.root
    note = token.with_suffix(".note")
    match what:
        case "other root":
            root = Authority(tmp_path / "other").root
        case "garbage":
            token.write_text("<html>")
        case "other note's token":
            token.write_bytes(authority.token(LOG.notes[0].encode()))
        case "no note":
            note.unlink()
        case "other note":
            note.write_text(LOG.notes[0])
        case "renamed":  # a good token, but for fewer lines
            note.write_text(LOG.notes[0])
            token.write_bytes(authority.token(LOG.notes[0].encode()))
        case "no text":
            note.write_bytes(b"\xff")
    verdict, (stamp,) = verify(log, "--anchors", tmp_path, "--tsa-cert", root, code=1)
    assert verdict == "broken"
    assert stamp["problem"]
    assert stamp["existed"] is None


@pytest.mark.parametrize("what", ["404", "html", "another", "again"])
def test_an_authority_that_answers_nonsense(what, notes, authority, tmp_path):
    """Nothing is stored, and the next time it is asked again."""
    answers = {
        "404": (404, {}, b""),
        "html": b"<html>Sign in</html>",
        "another": authority.token(b"other"),
        "again": authority.token(LOG.notes[-1].encode()),
    }
    with serving(lambda _heard: answers[what]) as (url, heard):
        for _ in range(2):
            said = anchor(notes, url, code=1)
            assert said.startswith(f"mprelayctl: no token for {RELAY_ID}-{SIZE}: {url} ")
        assert len(heard) == 2
    assert files(tmp_path) == []


def test_a_token_that_would_not_be_good_is_not_stored(notes, url, tmp_path):
    """If it is known who must have signed it."""
    other = Authority(tmp_path / "other")
    assert "is not good" in anchor(notes, url, "--tsa-cert", other.root, code=1)
    assert files(tmp_path) == ["other"]


def test_what_cannot_be_stored(notes, url, tmp_path):
    """As on a full disk."""
    out = tmp_path / "out"
    (out / f"{RELAY_ID}-{SIZE}.note").mkdir(parents=True)
    assert "cannot be stored" in anchor(notes, url, "--out", out, code=1)
    assert files(out) == [f"{RELAY_ID}-{SIZE}.note"]


def test_usage(notes, log, tmp_path):
    url = "http://127.0.0.1:9/"
    assert "No such file" in anchor(tmp_path / "none", url, code=2)
    assert "is no directory" in anchor(notes, url, "--out", tmp_path / "none", code=2)
    assert "holds no certificates" in anchor(notes, url, "--tsa-cert", notes, code=2)
    for wrong in ("127.0.0.1:9", "ftp://x/", "file:///etc/passwd", "http://", "http://[", "http://x/\n"):
        assert "is no URL" in anchor(notes, wrong, code=2)
    notes.write_text("mprelay/x\n\n— x\n")
    assert "note 1 is damaged" in anchor(notes, url, code=2)
    for more in (["--tsa-cert", notes], ["--anchors", tmp_path / "none"]):
        assert ctl(None, "verify", str(log), *map(str, more)).returncode == 2


def test_without_the_library(notes, log, tmp_path):
    """It is named with what brings it. What does not need it works."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "rfc3161_client.py").write_text("raise ModuleNotFoundError(name='rfc3161_client')")
    env = os.environ | {"PYTHONPATH": str(tmp_path / "lib")}
    words = ["anchor", "--notes", str(notes), "--tsa", "http://127.0.0.1:9/"]
    done = subprocess.run([CTL, *words], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert (
        done.stderr
        == "mprelayctl: a token (RFC 3161) needs a library that is missing: pip install 'mprelay[seal]'\n"
    )
    words = ["verify", str(log), "--anchors", str(tmp_path)]
    subprocess.run([CTL, *words], env=env, capture_output=True, timeout=60, check=True)
