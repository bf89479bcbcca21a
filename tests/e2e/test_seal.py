"""A sealed log, from outside: what is written can be proved, whatever ends the run."""

import base64
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from support.launching import PROGRAM
from support.peers import echoing, receive
from support.relay import NOWHERE, Relay, run
from support.waiting import eventually

pytestmark = pytest.mark.posix("modes of files, FIFOs, and a library that Wine 8 cannot load")

GOOD = ("8080", "192.0.2.1", "80", "ANY")


def raw(text):
    """Decode Base64."""
    return base64.b64decode(text, validate=True)


def root_of(lines):
    """RFC 6962, section 2.1, by its definition."""
    if len(lines) == 1:
        return hashlib.sha256(b"\0" + lines[0]).digest()
    half = 1 << (len(lines) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root_of(lines[:half]) + root_of(lines[half:])).digest()


def check(output, owner=None):
    """Check a log as docs/seal.md says, all lines in memory; return its checkpoints as notes."""
    lines = output.removesuffix(b"\n").split(b"\n")
    records = [json.loads(line) for line in lines]
    origin = f"mprelay/{records[0]['relay_id']}"
    assert records[0]["event"] == "log.key"
    assert records[0]["signed_by"] == owner
    notes, key = [], None
    for place, (line, record) in enumerate(zip(lines, records, strict=True)):
        if record["event"] == "log.key":
            before = root_of(lines[:place]) if place else hashlib.sha256().digest()
            said = f"mprelay log.key v1\n{origin}\n{place}\n{base64.b64encode(before).decode()}\n"
            said += f"{record['public_key']}\n"
            if record["signed_by"] is not None:
                assert record["signed_by"] in {owner, key}
                signer = Ed25519PublicKey.from_public_bytes(raw(record["signed_by"]))
                signer.verify(raw(record["signature"]), said.encode())
            key = record["public_key"]
        if record["event"] == "log.checkpoint":
            assert record["size"] == place
            assert raw(record["root"]) == root_of(lines[:place])
            own = hashlib.sha256(line.replace(record["signature"].encode(), b"")).digest()
            said = f"{origin}\n{place}\n{record['root']}\nrecord {base64.b64encode(own).decode()}\n"
            Ed25519PublicKey.from_public_bytes(raw(key)).verify(raw(record["signature"]), said.encode())
            number = hashlib.sha256(f"{origin}\n\x01".encode() + raw(key)).digest()[:4]
            blob = base64.b64encode(number + raw(record["signature"])).decode()
            notes.append(f"{said}\n— {origin} {blob}\n")
    return notes


def test_a_run_is_sealed_from_its_first_record_to_its_last(tmp_path):
    """Its checkpoints are also in the file, where those of an earlier run stand already."""
    path = tmp_path / "notes"
    path.write_text("earlier\n\n— earlier AAAA\n")
    with (
        echoing() as server,
        Relay(server.getsockname(), "--seal", "--checkpoint-to", str(path), "--label", "a=b") as relay,
    ):
        for _ in range(3):
            with relay.connect() as client:
                client.sendall(b"hello")
                assert receive(client, 5) == b"hello"
        relay.wait("session.closed", 3)
    notes = check(bytes(relay._output))
    assert len(notes) == 2  # when draining began, and behind relay.stopped
    assert path.read_text() == "".join(["earlier\n\n— earlier AAAA\n", *notes])


def test_a_checkpoint_comes_at_least_every_thousand_records(tmp_path):
    with (
        echoing() as server,
        Relay(server.getsockname(), "--seal", "--checkpoint-to", str(tmp_path / "n")) as relay,
    ):
        for _ in range(150):
            with relay.connect() as client:
                client.sendall(b"x")
                assert receive(client, 1) == b"x"
        relay.wait("session.closed", 150)
        relay.wait("log.checkpoint")
    notes = check(bytes(relay._output))
    assert (tmp_path / "n").read_text() == "".join(notes)


@pytest.mark.slow
def test_a_record_is_covered_within_ten_seconds():
    """And then nothing is written any more."""
    with Relay(NOWHERE, "--seal", "--stats-interval", "0") as relay:
        active = relay.wait("relay.active")
        covered = relay.wait("log.checkpoint")
        assert covered["size"] == active["seq"]
        seconds = [float(record["timestamp"][17:26]) for record in (relay.records[0], covered)]
        assert 9 <= (seconds[1] - seconds[0]) % 60 <= 12
        eventually(lambda: relay.member(relay.pid).status() == "sleeping", "an idle relay")
        assert len(relay.all("log.checkpoint")) == 1


def test_a_killed_supervisor_leaves_an_open_log(tmp_path):
    """No note tells of more than the log has."""
    path = tmp_path / "notes"
    with (
        echoing() as server,
        Relay(server.getsockname(), "--seal", "--checkpoint-to", str(path), quiet=False) as relay,
    ):
        for _ in range(140):
            with relay.connect() as client:
                client.sendall(b"x")
                assert receive(client, 1) == b"x"
        relay.wait("log.checkpoint")
        relay.kill()
    notes = check(bytes(relay._output))
    assert notes
    assert relay.records[-1]["event"] != "relay.stopped"
    assert path.read_text() == "".join(notes)


# Made by `ssh-keygen -t ed25519 -N secret`; it belongs to nobody.
WITH_PASSPHRASE = b"""\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABAv0VBpm4
oAp8+9B9OSGKE0AAAAEAAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAILu0W91UCYN8NK9b
CXUPEu1IyU+TdlJ+2s7AwtB2WGgxAAAAkEhQ2EcYt4HZwOml3k5JNlJwhrUUw0zAxxvPqz
tvKcFx8z7iSvytZ88UfNFvKmE9ncrDP5AT6MIEiAeNduNLfxVxW1wOzdBgnV018sox12nB
LE/AHo0HkoGu9tDr0Um+mlNXX7kP7kM9l5HQ34RHdDoairOzbVlbQeEGbS6nq3cVCrILPl
zzlh1jU8O48bx8UA==
-----END OPENSSH PRIVATE KEY-----
"""


def private(key, form=PrivateFormat.PKCS8, secrecy=None):
    """A private key as a file has it."""
    return key.private_bytes(Encoding.PEM, form, secrecy or NoEncryption())


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.OpenSSH])
def test_an_owners_key_vouches_for_the_runs_key(tmp_path, form):
    path, owner = tmp_path / "own.key", Ed25519PrivateKey.generate()
    path.write_bytes(private(owner, form))
    path.chmod(0o600)
    with Relay(NOWHERE, "--seal", "--seal-key", str(path)) as relay:
        pass
    check(bytes(relay._output), base64.b64encode(owner.public_key().public_bytes_raw()).decode())
    assert relay.records[0]["public_key"] != relay.records[0]["signed_by"]


def refused(*options, **popen):
    """What a start with these options says is wrong: one record."""
    done = run(PROGRAM, *GOOD, "--seal", *options, **popen)
    assert done.returncode == 2
    (record,) = map(json.loads, done.stdout.splitlines())
    assert record["event"] == "config.invalid"
    return record["parameter"], record["problem"]


@pytest.mark.parametrize(
    ("content", "mode", "wrong"),
    [
        (private(Ed25519PrivateKey.generate()), 0o640, "can be read by its group or by others"),
        (private(Ed25519PrivateKey.generate()), 0o604, "can be read by its group or by others"),
        (private(Ed25519PrivateKey.generate()), 0o620, "can be written by its group or by others"),
        (private(Ed25519PrivateKey.generate(), secrecy=BestAvailableEncryption(b"x")), 0o600, "passphrase"),
        (WITH_PASSPHRASE, 0o600, "passphrase"),
        (private(generate_private_key(SECP256R1())), 0o600, "of another kind than Ed25519"),
        (b"", 0o600, "holds no private key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", 0o600, "no private"),
        (b"\xff" * 100, 0o600, "holds no private key"),
    ],
)
def test_a_wrong_key_is_refused(tmp_path, content, mode, wrong):
    """Nothing of it is shown."""
    path = tmp_path / "own.key"
    path.write_bytes(content)
    path.chmod(mode)
    parameter, problem = refused("--seal-key", str(path))
    assert parameter == "seal_key"
    assert wrong in problem
    assert "BEGIN" not in problem


def test_a_key_that_cannot_be_read_is_refused(tmp_path):
    """Nor does a FIFO hold the start up."""
    assert "No such file" in refused("--seal-key", str(tmp_path / "none"))[1]
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "is not a regular file" in refused("--seal-key", str(tmp_path / "fifo"))[1]


def test_checkpoints_that_cannot_be_written_are_told_at_the_start(tmp_path):
    """A FIFO that nobody reads does not hold the start up either. Nothing is left behind."""
    os.mkfifo(tmp_path / "fifo")
    control = tmp_path / "control"
    for path in (tmp_path, tmp_path / "none" / "n", tmp_path / "fifo"):
        parameter, problem = refused("--checkpoint-to", str(path), "--control", str(control))
        assert parameter == "checkpoint_to"
        assert "cannot be opened" in problem
        assert not control.exists()


def test_checkpoints_do_not_go_where_the_records_go(tmp_path):
    """A note is no record, so one among them would break the log for ever."""
    path = tmp_path / "log"
    with path.open("ab") as log:
        done = subprocess.run(
            [PROGRAM, *GOOD, "--seal", "--checkpoint-to", path],
            stdout=log,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    (record,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert (record["event"], record["parameter"]) == ("config.invalid", "checkpoint_to")
    assert "must not be where the records go" in record["problem"]


def test_a_check_makes_no_file(tmp_path):
    done = run(PROGRAM, *GOOD, "--seal", "--checkpoint-to", str(tmp_path / "n"), "--check")
    assert done.returncode == 0
    assert f'checkpoint_to = "{tmp_path / "n"}"' in done.stdout.decode()
    assert not (tmp_path / "n").exists()


def test_a_text_log_cannot_be_sealed():
    done = run(PROGRAM, *GOOD, "--seal", "--log-format", "text")
    assert done.returncode == 2
    assert b"--seal must not be given with --log-format text" in done.stdout


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ("ModuleNotFoundError(name='cryptography')", "a library that is missing: pip install 'mprelay[seal]'."),
        ("ImportError('GLIBC_9 not found')", "a library that cannot be loaded: GLIBC_9 not found."),
    ],
)
def test_without_the_library_it_is_said_what_to_install(tmp_path, failure, said):
    (tmp_path / "cryptography.py").write_text(f"raise {failure}\n")
    parameter, problem = refused(env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (parameter, problem) == ("seal", f"--seal needs {said}")


def test_a_reader_of_checkpoints_that_stands_still_holds_nothing_up(tmp_path):
    """A FIFO that is full. What is dropped, later notes say too; the log has them all."""
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    filler = os.open(tmp_path / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            os.write(filler, b"x" * 4096)
    except BlockingIOError:
        os.close(filler)
    with (
        echoing() as server,
        Relay(server.getsockname(), "--seal", "--checkpoint-to", str(tmp_path / "fifo"), quiet=False) as relay,
    ):
        with relay.connect() as client:
            client.sendall(b"x")
            assert receive(client, 1) == b"x"
        relay.wait("session.closed")
        assert relay.stop() == 0
    os.close(reader)
    check(bytes(relay._output))
    assert "the last notes of checkpoints are not written yet" in relay.errors


def test_a_reader_of_checkpoints_that_goes_away_is_told(tmp_path):
    """It is a record, and the relay goes on."""
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with (
        echoing() as server,
        Relay(server.getsockname(), "--seal", "--checkpoint-to", str(tmp_path / "fifo"), quiet=False) as relay,
    ):
        os.close(reader)
        for _ in range(140):
            with relay.connect() as client:
                client.sendall(b"x")
                assert receive(client, 1) == b"x"
        lost = relay.wait("log.notes_lost")
        assert lost["file"] == str(tmp_path / "fifo")
    check(bytes(relay._output))
    assert len(relay.all("log.notes_lost")) == 1
    assert "no more notes of checkpoints are written" in relay.errors


def test_the_file_for_checkpoints_is_held_by_the_outlet_alone(tmp_path):
    """It may be on a disk that hangs."""
    path = tmp_path / "notes"
    with Relay(NOWHERE, "--seal", "--checkpoint-to", str(path)) as relay:
        assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0
        holders = [
            process.pid
            for process in relay.family()
            if any(os.path.realpath(f"/proc/{process.pid}/fd/{n}") == str(path) for n in range(64))
        ]
        assert holders == [relay.outlet().pid]


def test_a_sealed_log_on_a_terminal_is_json(tool):
    tool("script")
    command = f"{PROGRAM} 8080 192.0.2.1 80 ANY --seal --expires-at 2020-01-01T00:00:00Z"
    done = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0
    check(done.stdout.replace(b"\r\n", b"\n"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_lost_worker_is_sealed_too(number):
    with (
        echoing() as server,
        Relay(server.getsockname(), "--seal", workers=1, quiet=False) as relay,
        relay.connect() as client,
    ):
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        os.kill(relay.workers()[1], number)
        relay.wait("session.closed", reason="worker_lost")
        relay.stop()
    check(bytes(relay._output))


def test_off_loads_nothing():
    """Neither cryptography nor anything else that only a seal needs."""
    code = "import sys, mprelay.app; print('cryptography' in sys.modules, 'mprelay.seal.keys' in sys.modules)"
    assert run(sys.executable, "-c", code).stdout.split() == [b"False", b"False"]
