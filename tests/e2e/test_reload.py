"""The rules are read again while the relay runs: as a whole, or not at all."""

import os
import pty
import signal
import sys

import pytest
from support.launching import PROGRAM
from support.patches import (
    HELPER_BUILD,
    IN_CHILDREN,
    IN_SUPERVISOR,
    READING_LIMIT,
    REREAD,
    assigned,
    breakable,
    replaced,
    with_site,
)
from support.peers import accept, answering, echo, ends_with_reset, listening, receive
from support.relay import NOWHERE, Relay
from support.waiting import eventually

pytestmark = pytest.mark.posix("SIGHUP")


@pytest.fixture
def rules(tmp_path):
    """A file of rules that lets in 127.0.0.1 only."""
    path = tmp_path / "rules"
    path.write_text("127.0.0.1/32\n")
    return path


def test_sighup_swaps_the_list(rules):
    """Sessions go on, whoever is allowed now."""
    with (
        listening() as server,
        Relay(server.getsockname(), acl=f"@{rules}") as relay,
        relay.connect(source="127.0.0.1") as client,
        accept(server) as target,
    ):
        echo(client, target)
        assert relay.knock(source="127.0.0.2").heard == b""
        rules.write_text("# other people\n!127.0.0.1/32\n127.0.0.0/8\n::1/128\n")
        relay.signal(signal.SIGHUP)
        reloaded = relay.wait("acl.reloaded", level="info")
        assert [reloaded[name] for name in ("entries", "added", "removed", "ended")] == [3, 3, 1, 0]
        assert relay.knock(source="127.0.0.1").heard == b""
        assert relay.wait("connection.rejected", client_ip="127.0.0.1")["acl"] == "!127.0.0.1/32"
        with relay.connect(source="127.0.0.2") as other, accept(server) as other_target:
            echo(other, other_target)
        echo(client, target)
        rules.write_text("")
        relay.signal(signal.SIGHUP)
        assert relay.wait("acl.reloaded", 2)["entries"] == 0
        assert relay.knock(source="127.0.0.2").heard == b""
        assert relay.wait("connection.rejected", 3)["acl"] == "no entry"
        echo(client, target)


def test_anything_wrong_leaves_the_list_as_it_was(rules):
    """Each wrong line is a record with its place, at most ten. A file may be missing, or not to be trusted."""
    with listening() as server, Relay(server.getsockname(), acl=f"@{rules}") as relay:

        def still_in():
            with relay.connect(source="127.0.0.1") as client, accept(server) as target:
                echo(client, target)

        rules.write_text("127.0.0.0/8\n10.0.0.1\nanybody\n10.0.0.0/40\n")
        relay.signal(signal.SIGHUP)
        last = relay.wait("acl.reload_failed", 3, level="error", file=str(rules))
        assert [record["line"] for record in relay.all("acl.reload_failed")] == [2, 3, 4]
        assert last["problem"].startswith("'10.0.0.0/40' in line 4 of ")
        still_in()
        rules.write_text("x\n" * 11)
        relay.signal(signal.SIGHUP)
        relay.wait("acl.reload_failed", 13)
        still_in()
        assert len(relay.all("acl.reload_failed")) == 13
        rules.unlink()
        relay.signal(signal.SIGHUP)
        missing = relay.wait("acl.reload_failed", 14)
        assert missing["line"] is None
        assert missing["problem"].endswith("cannot be read: No such file or directory")
        rules.write_text("ANY\n")
        rules.chmod(0o666)
        relay.signal(signal.SIGHUP)
        assert "chmod go-w" in relay.wait("acl.reload_failed", 15)["problem"]
        still_in()
        rules.unlink()
        os.mkfifo(rules)
        relay.signal(signal.SIGHUP)
        assert "not a regular file" in relay.wait("acl.reload_failed", 16)["problem"]
        still_in()
        assert not relay.all("acl.reloaded")


def test_a_link_is_looked_up_anew(tmp_path):
    """As a mounted ConfigMap is: rules is a link to ..data/rules, and ..data is swapped by rename(2)."""
    for name, text in (("one", "127.0.0.1/32\n"), ("two", "127.0.0.2/32\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rules").write_text(text)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "rules").symlink_to("..data/rules")
    with listening() as server, Relay(server.getsockname(), acl=f"@{tmp_path / 'rules'}") as relay:
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").rename(tmp_path / "..data")
        relay.signal(signal.SIGHUP)
        relay.wait("acl.reloaded", added=1, removed=1)
        with relay.connect(source="127.0.0.2") as client, accept(server) as target:
            echo(client, target)


def test_sessions_that_are_no_longer_allowed_can_be_ended(rules):
    """Both sides of them are reset, and the others go on."""
    rules.write_text("127.0.0.0/8\n")
    with (
        listening() as server,
        Relay(server.getsockname(), "--acl-ends-sessions", acl=f"@{rules}") as relay,
        relay.connect(source="127.0.0.1") as stays,
        accept(server) as stays_target,
        relay.connect(source="127.0.0.2") as goes,
        accept(server) as goes_target,
    ):
        echo(stays, stays_target)
        echo(goes, goes_target)
        rules.write_text("127.0.0.1/32\n")
        relay.signal(signal.SIGHUP)
        assert relay.wait("acl.reloaded")["ended"] == 1
        closed = relay.wait("session.closed", reason="acl_revoked", level="info")
        assert closed["client_ip"] == "127.0.0.2"
        assert ends_with_reset(goes)
        assert ends_with_reset(goes_target)
        echo(stays, stays_target)


def test_without_files_sighup_is_sigterm():
    with Relay(NOWHERE, acl="127.0.0.1/32") as relay:
        relay.signal(signal.SIGHUP)
        assert relay.wait("relay.draining")["signal"] == "SIGHUP"
        assert relay.finish() == 0


def test_a_terminal_that_hangs_up_ends_the_relay(rules):
    """It tells that by the same signal. While it is there, the signal means the rules."""
    ours, theirs = pty.openpty()
    code = "import os, sys; os.setsid(); os.open(sys.argv[1], os.O_RDWR); os.execv(sys.argv[2], sys.argv[2:])"
    command = (sys.executable, "-c", code, os.ttyname(theirs), PROGRAM)
    with Relay(NOWHERE, acl=f"@{rules}", command=command) as relay:
        os.close(theirs)
        relay.signal(signal.SIGHUP)
        relay.wait("acl.reloaded")
        os.close(ours)
        assert relay.wait("relay.draining")["signal"] == "SIGHUP"
        assert relay.finish() == 0


def test_a_reading_that_dies_is_told_and_another_one_works(rules, tmp_path):
    """It dies as long as a file is there."""
    broken = tmp_path / "broken"
    code = f"""
import os
def broken(*given, **named):
    if os.path.exists({str(broken)!r}):
        os._exit(9)
    return whole(*given, **named)
"""
    env = with_site(tmp_path, replaced(REREAD, code))
    with Relay(NOWHERE, acl=f"@{rules}", env=env) as relay:
        broken.touch()
        relay.signal(signal.SIGHUP)
        failed = relay.wait("acl.reload_failed")
        assert (failed["file"], failed["line"]) == (None, None)
        assert failed["problem"] == "the process that reads it ended with exit code 9"
        broken.unlink()
        relay.signal(signal.SIGHUP)
        relay.wait("acl.reloaded")


def test_a_reading_that_dies_at_once_holds_up_nothing(rules, tmp_path):
    """It is never told what to read, which is longer than a pipe holds."""
    broken, env = breakable(tmp_path, "os._exit(9)")
    acl = ",".join([f"@{rules}", *(f"10.{number >> 8}.{number & 255}.0/24" for number in range(3000))])
    with listening() as server, Relay(server.getsockname(), acl=acl, env=env) as relay:
        broken.touch()
        relay.signal(signal.SIGHUP)
        failed = relay.wait("acl.reload_failed")
        assert failed["problem"] == "the process that reads it ended with exit code 9"
        with relay.connect(source="127.0.0.1") as client, accept(server) as target:
            echo(client, target)
        broken.unlink()
        relay.signal(signal.SIGHUP)
        assert relay.wait("acl.reloaded")["entries"] == 3001


def test_rules_are_read_during_a_drain_too(rules):
    """Whoever is no longer allowed need not be waited for."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--acl-ends-sessions", "--drain-timeout", "60", acl=f"@{rules}") as relay,
        relay.connect(source="127.0.0.1") as client,
        accept(server) as target,
    ):
        echo(client, target)
        relay.signal()
        relay.wait("relay.draining")
        rules.write_text("")
        relay.signal(signal.SIGHUP)
        relay.wait("session.closed", reason="acl_revoked")
        assert relay.finish() == 0


def test_a_reading_that_hangs_is_given_up_and_holds_up_nothing(rules, tmp_path):
    """The door works meanwhile, and so does the end."""
    hanging = replaced(REREAD, "import signal\ndef broken(*given, **named):\n    signal.pause()")
    env = with_site(tmp_path, hanging + IN_SUPERVISOR + assigned(READING_LIMIT, "1.0"))
    with listening() as server, Relay(server.getsockname(), acl=f"@{rules}", env=env) as relay:
        relay.signal(signal.SIGHUP)
        with relay.connect(source="127.0.0.1") as client, accept(server) as target:
            echo(client, target)
        failed = relay.wait("acl.reload_failed")
        assert failed["problem"] == "the process that reads it has not ended after 1 seconds"
        relay.signal(signal.SIGHUP)
        eventually(
            lambda: len(relay.family()) == 5, "it reads again: two workers, outlet, resource tracker, reading"
        )
        relay.stop()


def test_a_reading_by_another_build_is_refused(rules, tmp_path):
    """The package was upgraded while the relay ran."""
    env = with_site(tmp_path, IN_CHILDREN + assigned(HELPER_BUILD, "'9.0 other'"))
    with Relay(NOWHERE, acl=f"@{rules}", env=env) as relay:
        relay.signal(signal.SIGHUP)
        assert "is of another build: 9.0 other, this relay is " in relay.wait("acl.reload_failed")["problem"]


def test_a_long_list_is_swapped_and_what_changed_is_counted(rules):
    """It is longer than the pipes to and from the process hold. Two signals at once lose no change."""
    lines = [f"10.{number >> 8}.{number & 255}.0/24\n" for number in range(20_000)]
    rules.write_text("".join(lines))
    with listening() as server, Relay(server.getsockname(), acl=f"@{rules},127.0.0.2/32") as relay:
        rules.write_text("".join(["192.0.2.0/24\n", *lines[5:]]))
        relay.signal(signal.SIGHUP)
        rules.write_text("".join(["127.0.0.1/32\n", *lines]))
        relay.signal(signal.SIGHUP)
        eventually(
            lambda: relay.all("acl.reloaded") and relay.all("acl.reloaded")[-1]["entries"] == 20_002, "all read"
        )
        assert sum(record["added"] - record["removed"] for record in relay.all("acl.reloaded")) == 1
        with relay.connect(source="127.0.0.1") as client, accept(server) as target:
            echo(client, target)


@pytest.mark.slow
def test_no_connection_is_judged_by_half_a_list(rules):
    """Lists that let everybody in, by different entries, are swapped again and again while clients come."""
    lists = [
        "127.0.0.0/9\n127.128.0.0/9\n",
        "127.128.0.0/9\n127.0.0.0/9\n",
        "".join(f"127.{n}.0.0/16\n" for n in range(256)),
    ]
    rules.write_text(lists[0])
    with (
        listening(backlog=4096) as server,
        Relay(server.getsockname(), acl=f"@{rules}") as relay,
        answering(server, b"in"),
    ):
        for turn in range(1, 7):
            new = rules.with_name("new")
            new.write_text(lists[turn % 3])
            new.rename(rules)
            relay.signal(signal.SIGHUP)
            clients = 0
            while len(relay.all("acl.reloaded")) < turn or clients < 200:
                with relay.connect(source=f"127.{clients % 256}.1.1") as client:
                    assert receive(client) == b"in"
                clients += 1
        relay.stop()
    assert relay.records[-1]["rejected"] == 0
