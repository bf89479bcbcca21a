"""`mprelayctl top`: the screen by textual's pilot, and in a real terminal by tmux, always of a real relay."""

import asyncio
import contextlib
import io
import json
import os
import pty
import re
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
import tty
from pathlib import Path

import psutil
import pytest
from support.launching import PROGRAM
from support.peers import ends_with_reset, listening
from support.relay import Relay, open_sessions
from support.waiting import PATIENCE, eventually

from mprelay.ctl.client import Client, NoRelay
from mprelay.ctl.feed import Feed, Gone

pytest.importorskip("textual", reason="the extra `top` is not installed")

from textual.drivers import linux_driver
from textual.drivers._writer_thread import WriterThread
from textual.widgets import Static

from mprelay.ctl.terminal import Terminal
from mprelay.ctl.top import Rows, Top

pytestmark = pytest.mark.posix("control sockets")

CTL = str(Path(PROGRAM).with_name("mprelayctl"))
SIZES = [(120, 30), (80, 24), (20, 5)]


@pytest.fixture
def opened(tmp_path):
    """Open a relay with sessions. Gives the relay, the path of its control socket, and the sessions' sockets."""
    with contextlib.ExitStack() as stack:

        def open_relay(count, *options, quiet=True):
            server = stack.enter_context(listening())
            path = str(tmp_path / "control")
            relay = stack.enter_context(Relay(server.getsockname(), "--control", path, *options, quiet=quiet))
            return relay, path, open_sessions(stack, relay, server, count) if count else []

        yield open_relay


# -- without a screen ----------------------------------------------------------------------------------------


def ctl(path, *arguments, **options):
    return subprocess.run(
        [CTL, *arguments, "--control", path], capture_output=True, timeout=PATIENCE, check=False, **options
    )


@pytest.mark.parametrize("arguments", [("top",), ("top", "--json")])
def test_without_a_terminal_there_is_one_snapshot(opened, arguments):
    relay, path, made = opened(2)
    done = ctl(path, *arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    told = json.loads(done.stdout)
    assert (told["status"]["relay_id"], told["status"]["active"]) == (relay.records[0]["relay_id"], 2)
    assert [one["session"] for one in told["sessions"]] == [1, 2]
    assert {one["client_port"] for one in told["sessions"]} == {client.getsockname()[1] for client, _ in made}


def on_a_terminal(*command, **environment):
    """Run a command whose stdin, stdout and stderr are a terminal. Returns its exit code, and what it wrote."""
    ours, theirs = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name not in {"TERM", "NO_COLOR"}} | environment
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # EIO: the end
            while part := os.read(ours, 65536):
                written += part
        os.close(ours)
        return process.wait(PATIENCE), written


@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}, {"TERM": ""}])
def test_a_terminal_that_cannot_show_it_gets_a_snapshot(opened, environment):
    """So does one whose keys are not read."""
    _relay, path, _made = opened(1)
    code, written = on_a_terminal(CTL, "--control", path, "top", **environment)
    assert (code, len(json.loads(written)["sessions"])) == (0, 1)
    code, written = on_a_terminal("sh", "-c", f"{CTL} --control {path} top </dev/null", TERM="xterm")
    assert (code, len(json.loads(written)["sessions"])) == (0, 1)


def test_a_pipe_that_is_closed_gives_no_traceback(opened):
    _relay, path, _made = opened(1)
    done = subprocess.run(
        ["sh", "-c", f"{CTL} --control {path} top | head -1; {CTL} --control {path} top | true"],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout.count(b"\n")) == (0, b"", 1)


def test_without_textual_it_says_what_to_install(opened):
    """A snapshot needs none."""
    _relay, path, _made = opened(0)
    without = [
        sys.executable,
        "-c",
        "import sys; sys.modules['textual'] = None; from mprelay.ctl.program import main; main()",
    ]
    code, written = on_a_terminal(*without, "--control", path, "top", TERM="xterm")
    assert code == 2
    assert b"top needs a library that is missing: pip install 'mprelay[top]'" in written
    done = subprocess.run([*without, "--control", path, "top"], capture_output=True, timeout=PATIENCE, check=True)
    assert json.loads(done.stdout)["sessions"] == []


def test_without_a_relay_there_is_no_screen(tmp_path):
    code, written = on_a_terminal(CTL, "--control", str(tmp_path / "none"), "top", TERM="xterm")
    assert code == 69
    assert re.fullmatch(rb"mprelayctl: no relay is at .*/none: No such file or directory\r\n", written)


# -- the screen, driven --------------------------------------------------------------------------------------


class Seen:
    """A running screen, and what it shows."""

    def __init__(self, top, pilot):
        self.top, self.pilot = top, pilot
        self.press = pilot.press

    def rows(self, table="sessions"):
        """The cells of each row, as they are in the table."""
        found = self.top.query_one(f"#{table}", Rows)
        return [[cell.plain.strip() for cell in found.get_row_at(row)] for row in range(found.row_count)]

    def numbers(self):
        """The numbers of the sessions, from top to bottom."""
        return [int(row[0]) for row in self.rows()]

    def said(self, part):
        """What a line of text says."""
        return (
            self.top.screen.query_one(part, Static).render().plain
            if part == "Question Static"
            else str(self.top.query_one(f"#{part}", Static).render())
        )

    async def until(self, condition, what):
        """Wait for something that the next samples must show."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await self.pilot.pause(0.02)
        assert condition(), what


def drive(path, story, size=(120, 30)):
    """Run the screen without a terminal, and a story with it. Returns the screen."""

    async def run():
        feed = Feed(path)
        top = Top(feed)
        async with top.run_test(size=size) as pilot:
            await pilot.pause()
            await story(Seen(top, pilot))
        return top

    return asyncio.run(run())


@pytest.mark.parametrize("size", SIZES)
def test_the_screen_shows_sessions_as_they_come_and_go(opened, size):
    relay, path, made = opened(2)

    async def story(seen):
        assert seen.numbers() == [1, 2]
        client, target = made[0]
        client.sendall(b"x" * 3000)
        target.sendall(b"y" * 100)
        await seen.until(lambda: seen.rows()[0][5:7] == ["2.9 KiB", "100 B"], "bytes")
        await seen.until(lambda: seen.rows()[0][7] not in {"-", "0 B"}, "a rate")
        assert seen.rows()[0][1] == f"127.0.0.1:{client.getsockname()[1]}"
        assert seen.rows()[0][8] == f"127.0.0.1:{target.getsockname()[1]}"
        assert seen.said("head").startswith("active · 2/500 ses")
        for sock in made[1]:
            sock.close()
        await seen.until(lambda: seen.numbers() == [1], "one is gone")
        with relay.connect():
            await seen.until(lambda: seen.numbers() == [1, 3], "one has come")

    assert drive(path, story, size).gone is None


def test_workers_are_measured(opened):
    """Their pids are those of this pid namespace."""
    relay, path, _made = opened(3)

    async def story(seen):
        await seen.until(lambda: all(row[2].endswith("%") for row in seen.rows("workers")), "shares of a CPU")
        assert {row[0]: int(row[1]) for row in seen.rows("workers")} == {
            str(number): pid for number, pid in relay.workers().items()
        }
        assert all(row[3].endswith("MiB") for row in seen.rows("workers"))
        assert sum(int(row[4]) for row in seen.rows("workers")) == 3

    drive(path, story)


def test_workers_of_another_pid_namespace_are_not_measured(opened, monkeypatch):
    """The process that has the same pid here is another one. Who listens says whether it is."""
    _relay, path, _made = opened(1)
    monkeypatch.setattr(Client, "relay_pid", None)

    async def story(seen):
        assert [row[2:4] for row in seen.rows("workers")] == [["-", "-"]] * 2

    drive(path, story)


def test_keys_sort_and_reverse_and_the_cursor_stays_on_its_session(opened):
    _relay, path, made = opened(3)
    made[1][0].sendall(b"x" * 50_000)

    async def story(seen):
        table = seen.top.query_one("#sessions", Rows)
        await seen.until(lambda: seen.rows()[1][5] == "49 KiB", "bytes")
        await seen.press("6")
        assert seen.numbers() == [2, 1, 3]
        assert (table.chosen, table.cursor_row) == ("1", 1)
        await seen.press("r")
        assert seen.numbers() == [1, 3, 2]
        await seen.press("down", "down")
        assert (table.chosen, table.cursor_row) == ("2", 2)
        await seen.press("6")
        assert (table.chosen, table.cursor_row) == ("2", 0)
        await seen.press("1")
        assert seen.numbers() == [1, 2, 3]
        assert (table.chosen, table.cursor_row) == ("2", 1)
        await seen.pilot.click("#sessions", offset=(10, 0))
        assert [str(column.label)[:3] for column in table.ordered_columns][:2] == [" 1 ", "2▲c"]

    drive(path, story)


def test_a_filter_is_typed_kept_and_taken_away(opened):
    relay, path, made = opened(4)
    wanted = relay.held_by(2)
    of_two = [number for number, (client, _) in enumerate(made, 1) if client.getsockname()[1] in wanted]

    async def story(seen):
        await seen.press("slash", "w", "2")
        assert seen.numbers() == of_two
        await seen.press("enter", "7", "1")
        assert seen.numbers() == of_two
        await seen.press("slash", *"nobody", "enter", "k")
        assert seen.numbers() == []
        assert seen.said("notice") == "there is no session to kill"
        await seen.press("escape")
        assert seen.numbers() == [1, 2, 3, 4]
        assert seen.said("notice") == ""

    drive(path, story)


@pytest.mark.parametrize("size", SIZES)
def test_a_session_is_killed_after_a_question(opened, size):
    """It is the chosen one, also if the keys come faster than the screen is drawn."""
    relay, path, made = opened(3)

    async def story(seen):
        await seen.press("down", "k")
        port = made[1][0].getsockname()[1]
        assert seen.said("Question Static") == f"kill session 2 of 127.0.0.1:{port}? (y/n)"
        await seen.press("1", "k", "n")
        await seen.press("k", "y")
        await seen.until(lambda: seen.numbers() == [1, 3], "it is gone")
        assert seen.said("notice") == "session 2 is killed"

    drive(path, story, size)
    relay.wait("session.closed", reason="killed", session=2)
    assert len(relay.all("control.command", command="kill")) == 1
    assert ends_with_reset(made[1][0])


def test_what_there_is_no_room_for_is_left_out_also_behind_a_question(opened):
    _relay, path, _made = opened(1)

    async def story(seen):
        await seen.press("k")
        await seen.pilot.resize_terminal(20, 5)
        await seen.press("n")
        assert not seen.top.query_one("#origin").display
        assert not seen.top.query_one("#keys").display
        await seen.press("k")
        await seen.pilot.resize_terminal(120, 30)
        await seen.press("n")
        assert seen.top.query_one("#origin").display

    drive(path, story)


def test_a_refusal_is_shown(opened):
    """The session has ended while the question was there."""
    relay, path, made = opened(1)

    async def story(seen):
        await seen.press("k")
        for sock in made[0]:
            sock.close()
        relay.wait("session.closed")
        await seen.press("y")
        await seen.until(lambda: seen.said("notice"), "a refusal")
        assert seen.said("notice") == "the relay refuses: there is no session 1"

    drive(path, story)
    relay.allow("control.refused")


def test_nothing_is_updated_that_has_not_changed(opened, monkeypatch):
    """Cells that differ are changed in place; nothing is made anew, and an order that holds is left alone."""
    _relay, path, _made = opened(30)

    async def story(seen):
        done = []
        for name in ("clear", "add_row", "remove_row", "sort", "add_column"):
            monkeypatch.setattr(Rows, name, lambda *_given, name=name, **_named: done.append(name))
        update = Rows.update_cell
        monkeypatch.setattr(
            Rows, "update_cell", lambda self, *given: (done.append(given[1]), update(self, *given))[1]
        )
        age = seen.rows()[0][3]
        await seen.until(lambda: seen.rows()[0][3] != age, "time passes")
        assert set(done) <= {"2", "3", "4", "7"}, "a worker's share and memory, age, idle, a rate"

    drive(path, story)


def test_a_relay_that_ends_ends_the_screen(opened):
    relay, path, _made = opened(0)

    async def story(seen):
        relay.stop()
        await seen.until(lambda: seen.top.gone is not None, "it is gone")

    top = drive(path, story)
    assert isinstance(top.gone, NoRelay)
    assert str(top.gone) == f"the relay at {path} has ended"


def test_a_relay_that_does_not_answer_is_waited_for(opened):
    """Keys are heard meanwhile, so nobody has to wait for it to leave."""
    relay, path, _made = opened(1)

    async def story(seen):
        relay.suspend()
        await seen.until(lambda: re.match(r"no answer for [345] s", seen.said("notice")), "silence")
        relay.resume()
        await seen.until(lambda: seen.said("notice") == "", "an answer")
        relay.suspend()
        await seen.press("q")

    try:
        top = drive(path, story)
    finally:
        relay.resume()
    assert (top.gone, top.return_value) == (None, 0)


def test_what_comes_once_the_parts_are_gone_disturbs_nobody(opened):
    """The screen is cleared away in several steps. News and the timer may come between them."""
    relay, path, _made = opened(1)

    async def story(seen):
        sessions, notice = (seen.top.query_one(part) for part in ("#sessions", "#notice"))
        age = sessions.get_row_at(0)[3].plain
        await seen.top.screen.remove_children()
        await seen.until(lambda: sessions.get_row_at(0)[3].plain != age, "a sample has come")
        await seen.pilot.resize_terminal(20, 5)
        relay.suspend()
        await seen.until(lambda: str(notice.render()).startswith("no answer"), "the timer has ticked")

    try:
        drive(path, story)
    finally:
        relay.resume()


# -- the feed ------------------------------------------------------------------------------------------------


def test_a_connection_that_was_closed_is_made_again(opened):
    """The relay closes it when nothing is asked for long, as after SIGTSTP."""
    _relay, path, _made = opened(1)
    feed = Feed(path)
    told = []
    try:
        feed._client.hang_up()
        feed.start(told.append)
        eventually(lambda: len(told) >= 2, "two samples")
    finally:
        feed.close()
    assert [len(sample.sessions) for sample in told[:2]] == [1, 1]


def test_another_relay_is_not_taken_for_the_same(opened):
    """A session of it has the same number, and must not be killed in its place."""
    relay, path, _made = opened(0)
    feed = Feed(path)
    told = []
    try:
        assert relay.stop() == 0
        with listening() as server, Relay(server.getsockname(), "--control", path):
            feed.kill(1)
            feed.start(told.append)
            eventually(lambda: told, "the end")
    finally:
        feed.close()
    assert [type(news) for news in told] == [Gone]
    assert str(told[0].why) == f"the relay at {path} has ended. Another one is there now"


# -- the terminal, without a screen --------------------------------------------------------------------------


@pytest.fixture
def keyboard(monkeypatch):
    """A terminal that is stdin. Gives the end of whoever types, and the terminal."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as typing, os.fdopen(theirs) as stdin:
        tty.setraw(theirs)
        monkeypatch.setattr(sys, "__stdin__", stdin)
        yield typing, stdin


def test_what_the_shell_has_read_meanwhile_is_not_waited_for(keyboard, monkeypatch):
    """The shell reads between a select and the read behind it, while top is stopped. Its own reads still wait."""
    typing, stdin = keyboard
    shell = [b""]  # what it has read; the last is empty when it is its turn
    keys = []

    class Shared(selectors.SelectSelector):
        def select(self, timeout=None):
            ready = super().select(timeout)
            if ready and not shell[-1]:
                shell[-1] = os.read(stdin.fileno(), 1)
            return ready

    monkeypatch.setattr(linux_driver.selectors, "SelectSelector", Shared)

    async def story():
        terminal = Terminal(None)
        terminal.process_message = keys.append
        reader = threading.Thread(target=terminal.run_input_thread, daemon=True)
        reader.start()
        typing.write(b"a")
        eventually(lambda: shell[-1], "the shell's")
        typing.write(b"b")
        eventually(lambda: keys, "ours")
        shell.append(b"")
        typing.write(b"c")
        eventually(lambda: shell[-1], "the shell's again")
        terminal.exit_event.set()
        reader.join(PATIENCE)
        assert not reader.is_alive()
        assert os.get_blocking(stdin.fileno())
        os.close(terminal.fileno)

    asyncio.run(story())
    assert (shell, [key.character for key in keys]) == ([b"a", b"c"], ["b"])


def test_what_is_typed_while_the_terminal_is_taken_over_anew_is_not_lost(keyboard, monkeypatch):
    """Input is only thrown away when the terminal is left, to whoever comes next."""
    typing, stdin = keyboard
    monkeypatch.setattr(linux_driver.LinuxDriver, "start_application_mode", lambda _self: None)

    async def story():
        terminal = Terminal(None)

        def end_late():
            terminal.exit_event.wait(PATIENCE)
            typing.write(b"a")
            select.select([stdin], [], [], PATIENCE)

        terminal._key_thread = threading.Thread(target=end_late)
        terminal._key_thread.start()
        terminal._writer_thread = WriterThread(io.StringIO())
        terminal._writer_thread.start()
        terminal.start_application_mode()
        assert select.select([stdin], [], [], 0)[0] == [stdin]
        assert not terminal.exit_event.is_set()
        os.close(terminal.fileno)

    asyncio.run(story())


@pytest.mark.usefixtures("keyboard")
def test_nothing_is_drawn_while_the_terminal_is_given_back():
    """Nor is it waited for whoever would draw it."""

    async def story():
        terminal = Terminal(None)
        screen = io.StringIO()
        terminal._writer_thread = WriterThread(screen)
        terminal._writer_thread.start()
        terminal.write("a")
        terminal.close()
        drawing = threading.Thread(target=lambda: [terminal.write("b") for _ in range(100)], daemon=True)
        drawing.start()
        drawing.join(PATIENCE)
        assert not drawing.is_alive()
        assert screen.getvalue() == "a"
        os.close(terminal.fileno)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("number", "handler"), [(signal.SIGTSTP, "_sigtstp_application"), (signal.SIGCONT, "_sigcont_application")]
)
@pytest.mark.usefixtures("keyboard")
def test_no_signal_disturbs_what_is_being_drawn(monkeypatch, number, handler):
    """It may hold a lock that is needed to leave the screen, and to take it over."""
    heard = []

    async def story():
        came = asyncio.Event()
        monkeypatch.setattr(Terminal, handler, lambda *_: (heard.append(number), came.set()))
        os.close(Terminal(None).fileno)
        os.kill(os.getpid(), number)
        assert heard == []
        await asyncio.wait_for(came.wait(), PATIENCE)

    asyncio.run(story())
    assert heard == [number]


# -- a real terminal -----------------------------------------------------------------------------------------


class Tmux:
    """A terminal of its own, with a shell in it."""

    def __init__(self, program, place, width, height, **environment):
        self._program = program
        self._socket = str(place / "tmux")
        env = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "TMUX"}}
        env |= {"LC_ALL": "C.UTF-8", "PS1": "$ ", "TERM": "xterm", "COLUMNS": "80", **environment}
        self._env = env
        self("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), "bash", "--norc", "-i")
        self.server = psutil.Process(int(self("display", "-p", "#{pid}")))

    def __call__(self, *command):
        """Run a command of tmux; return its output."""
        done = subprocess.run(
            [self._program, "-S", self._socket, *command],
            capture_output=True,
            text=True,
            env=self._env,
            timeout=PATIENCE,
            check=True,
        )
        return done.stdout

    def type(self, text):
        """Give the shell a line."""
        self("send-keys", text, "Enter")

    def press(self, *keys):
        """Press keys, all at once."""
        self("send-keys", *keys)

    def screen(self, *options):
        """What the terminal shows, or with -e also how."""
        return self("capture-pane", "-p", *options)

    def wait(self, pattern):
        """Wait until the screen has this, and return it."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, screen := self.screen(), re.MULTILINE):
            assert time.monotonic() < deadline, f"no {pattern} in\n{screen}"
        return screen

    def ended(self):
        """Wait until the shell is asked again; return the exit code of its last command."""
        eventually(lambda: not self._children(), "the end of what runs")
        self.type("echo ended: $?.")
        return int(re.search(r"^ended: (\d+)\.", self.wait(r"^ended: \d+\."), re.MULTILINE)[1])

    def modes(self):
        """Alternate screen, cursor, mouse: as tmux knows them."""
        return self("display", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}#{mouse_sgr_flag}").strip()

    def running(self):
        """The mprelayctl that runs in the terminal."""
        eventually(self._children, "mprelayctl")
        return self._children()[0]

    def _children(self):
        shell, *_ = self.server.children()
        return shell.children()

    def close(self):
        """End the terminal, and whatever runs in it."""
        if self.server.is_running():
            family = [self.server, *self.server.children(recursive=True)]
            self("kill-server")
            _, left = psutil.wait_procs(family, PATIENCE)
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


SANE = "0 1 00"


@pytest.fixture
def terminal(tool, tmp_path):
    """Open a terminal in which the relay at a path is watched, perhaps by another command."""
    tool("bash")
    program = tool("tmux")
    with contextlib.ExitStack() as stack:

        def open_terminal(path, width=120, height=30, command=f"{CTL} top", **environment):
            tmux = Tmux(program, tmp_path, width, height, MPRELAYCTL_CONTROL=path, **environment)
            stack.callback(tmux.close)
            tmux.type(command)
            tmux.wait(r"active · \d+")
            return tmux

        yield open_terminal


@pytest.fixture
def signalled(tmp_path):
    """A command that is mprelayctl, but sends itself signals from within a method of the screen."""

    def write(method, *numbers):
        script = tmp_path / "signalled.py"
        script.write_text(f"""
import os
from mprelay.ctl import program, top

class Signalled(top.Top):
    def {method}(self):
        for number in {[int(number) for number in numbers]}:
            os.kill(os.getpid(), number)

top.Top = Signalled
program.main()
""")
        return f"{sys.executable} {script} top"

    return write


def test_what_a_terminal_shows(opened, terminal):
    """A label commands nothing, and the columns keep their places. A small terminal shows less."""
    label = "\x1b]0;hello\x07\x9b\u202ex"
    _relay, path, made = opened(3, "--label", f"ticket={label}", quiet=False)
    tmux = terminal(path)
    screen = tmux.wait(r"^ +3 127(?s:.*)^1-9 sort").splitlines()
    assert screen[0].startswith("active · 3/500 sessions · never expires · attempts 3 · refused 0 · from clients")
    assert screen[1].endswith("· ticket=\\x1b]0;hello\\x07\\x9b\\u202ex")
    assert tmux("display", "-p", "#{pane_title}").strip() != "hello"
    assert screen[2].split() == ["worker", "pid", "CPU", "RSS", "sessions"]
    place = next(number for number, line in enumerate(screen) if line.startswith(" 1▲no."))
    assert screen[place] == (
        " 1▲no. 2 client        3 worker   4 age  5 idle     6 up   7 down  8 per s 9 target"
    )
    for number, (client, target) in enumerate(made, 1):
        row = screen[place + number]
        assert row.startswith(f"     {number} 127.0.0.1:{client.getsockname()[1]} ")
        assert row[screen[place].index("9 target") :] == f"127.0.0.1:{target.getsockname()[1]}"
    assert screen[29] == "1-9 sort · r reverse · / filter · k kill · q quit"

    tmux("resize-window", "-x", "80", "-y", "24")
    screen = tmux.wait(r"^from clients(?s:.*)^1-9 sort").splitlines()
    assert "8 per s" in screen[7]
    assert len(screen) == 24

    tmux("resize-window", "-x", "20", "-y", "5")
    screen = tmux.wait(r"\Aactive · 3/500 sess…\n(?s:.*)^ +3 127").splitlines()
    assert screen[1] == " 1▲no. 2 client"
    assert screen[4].startswith("     3 127.0.0.1:")
    tmux.press("k")
    assert tmux.wait(r"\(y/n\)").splitlines()[2] == "kill session 1 of"
    tmux.press("n")
    tmux.wait("^ +3 127")
    tmux.press("/", "w", "9")
    tmux.wait("^w9")
    tmux("resize-window", "-x", "2", "-y", "1")
    tmux("resize-window", "-x", "80", "-y", "24")
    tmux.wait(r"^1-9 sort")
    tmux.press("Escape")
    tmux.wait("^ +3 127")
    tmux.press("q")
    assert tmux.ended() == 0
    assert tmux.modes() == SANE


def test_no_color_is_respected(opened, terminal):
    _relay, path, _made = opened(1)
    tmux = terminal(path, NO_COLOR="1")
    tmux.wait(r"^ +1 127")
    colours = re.compile(r"\x1b\[(?:[\d;]*;)?(?:3[0-8]|4[0-8]|9\d|10\d)(?:;[\d;]*)?m")
    assert not colours.search(tmux.screen("-e"))
    tmux.press("q")
    assert tmux.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_and_leaves_the_terminal_sane(opened, terminal, number):
    _relay, path, _made = opened(1)
    tmux = terminal(path)
    assert tmux.modes() != SANE
    tmux.running().send_signal(number)
    assert tmux.ended() == 128 + number
    assert tmux.modes() == SANE
    tmux.type("clear; stty -a")
    tmux.wait(r"(?s: icanon .* echo )")


def test_ctrl_c_ends_it(opened, terminal):
    _relay, path, _made = opened(1)
    tmux = terminal(path)
    tmux.press("C-c")
    assert tmux.ended() == 0
    assert tmux.modes() == SANE


@pytest.mark.parametrize("how", ["C-z", signal.SIGTSTP, signal.SIGSTOP])
def test_it_is_stopped_and_goes_on(opened, terminal, how):
    """After SIGSTOP, which it cannot see coming, the terminal is taken over anew."""
    _relay, path, _made = opened(1)
    tmux = terminal(path)
    tmux.wait("^1-9 sort")  # the screen is whole, so nothing of it is still to come after the resumption
    process = tmux.running()
    if how == "C-z":
        tmux.press(how)
    else:
        process.send_signal(how)
    eventually(lambda: process.status() == psutil.STATUS_STOPPED, "it is stopped")
    if how != signal.SIGSTOP:
        eventually(lambda: tmux.modes() == SANE, "the shell's terminal")
    tmux.type("clear")
    tmux.wait(r"\A\$\s*\Z")  # nothing of the first screen is left, which SIGSTOP leaves there
    tmux.type("fg")
    tmux.wait(r"\Aactive · 1(?s:.*)^\[::\](?s:.*)^1-9 sort")
    tmux.press("5")
    tmux.wait("5▼idle")
    tmux.press("q")
    assert tmux.ended() == 0
    assert tmux.modes() == SANE


def test_several_signals_to_stop_are_one(opened, terminal, signalled):
    """They have come before the first is obeyed. One that comes to a stopped program has no effect."""
    _relay, path, _made = opened(1)
    tmux = terminal(path, command=signalled("action_reverse", *[signal.SIGTSTP] * 5))
    tmux.wait("^1-9 sort")
    process = tmux.running()
    tmux.press("r")
    eventually(lambda: process.status() == psutil.STATUS_STOPPED, "it is stopped")
    eventually(lambda: tmux.modes() == SANE, "the shell's terminal")
    tmux.type("clear; fg")
    tmux.wait(r"\Aactive · 1(?s:.*)^1-9 sort")
    tmux.press("q")
    assert tmux.ended() == 0
    assert tmux.modes() == SANE


@pytest.mark.parametrize(
    ("how", "before"), [(signal.SIGTSTP, ""), (signal.SIGSTOP, ""), (signal.SIGSTOP, "stty tostop; ")]
)
def test_a_stopped_one_is_ended_by_a_signal(opened, terminal, how, before):
    """The shell lets it go on for that, in the background. What it left on the screen it takes away."""
    _relay, path, _made = opened(1)
    tmux = terminal(path, command=f"{before}{CTL} top")
    tmux.wait("^1-9 sort")
    process = tmux.running()
    process.send_signal(how)
    eventually(lambda: process.status() == psutil.STATUS_STOPPED, "it is stopped")
    tmux.type("kill %1")
    eventually(lambda: not process.is_running(), "its end")
    eventually(lambda: tmux.modes() == SANE, "the shell's terminal")
    tmux.type("echo on $((1 + 1))")
    tmux.wait("^on 2$")
    tmux.wait("Terminated")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what a thread blocks is told by /proc")
def test_signals_that_come_together_are_taken_together(opened, terminal):
    """No other thread takes one of them, and is late to tell of it: SIGTERM has to go before SIGCONT."""
    _relay, path, _made = opened(1)
    process = terminal(path).running()
    threads = {one.id: Path(f"/proc/{process.pid}/task/{one.id}/status") for one in process.threads()}
    blocked = {
        number: int(re.search(r"^SigBlk:\s+(\w+)$", status.read_text(), re.MULTILINE)[1], 16)
        for number, status in threads.items()
    }
    assert blocked.pop(process.pid) == 0
    assert len(blocked) >= 3, "one writes, one reads keys, and one hears of the relay"
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP, signal.SIGCONT):
        assert all(mask & 1 << number - 1 for mask in blocked.values())


@pytest.mark.parametrize("how", [signal.SIGTSTP, signal.SIGSTOP])
def test_in_the_background_it_stops_again(opened, terminal, how):
    """The terminal is the shell's there."""
    _relay, path, _made = opened(1)
    tmux = terminal(path)
    tmux.wait("^1-9 sort")
    process = tmux.running()
    process.send_signal(how)
    eventually(lambda: process.status() == psutil.STATUS_STOPPED, "it is stopped")
    tmux.type("clear; bg; wait %1; state=$?; clear; echo state $state")
    tmux.wait(f"^state {128 + signal.SIGSTOP}$")
    tmux.type("clear; fg")
    tmux.wait(r"\Aactive · 1(?s:.*)^1-9 sort")
    tmux.press("q")
    assert tmux.ended() == 0
    assert tmux.modes() == SANE


def test_a_terminal_that_was_left_is_not_taken_over_again(opened, terminal, signalled):
    """A SIGCONT may still come then."""
    _relay, path, _made = opened(1)
    tmux = terminal(path, command=signalled("on_unmount", signal.SIGCONT))
    tmux.press("q")
    assert tmux.ended() == 0
    assert tmux.modes() == SANE


def test_the_end_of_the_relay_is_said(opened, terminal):
    relay, path, _made = opened(0)
    tmux = terminal(path)
    relay.stop()
    screen = tmux.wait("has ended")
    assert f"mprelayctl: the relay at {path} has ended" in screen.replace("\n", "")
    assert tmux.ended() == 69
    assert tmux.modes() == SANE


def test_it_ends_with_its_terminal(opened, terminal):
    """Nothing is left to be told, and nothing loops."""
    _relay, path, _made = opened(1)
    tmux = terminal(path)
    process = tmux.running()
    tmux("new-window")
    tmux("kill-pane", "-t", ":0")
    eventually(lambda: not process.is_running(), "its end")


def test_errors_of_others_do_not_disturb_it(opened, terminal):
    """It draws on stdout, so stderr may be a file."""
    _relay, path, _made = opened(1)
    tmux = terminal(path)
    tmux.press("q")
    assert tmux.ended() == 0
    tmux.type(f"clear; {CTL} top 2>{path}.errors")
    tmux.wait(r"^active · 1")
    tmux.press("q")
    eventually(lambda: tmux.modes() == SANE, "its end")
    assert Path(f"{path}.errors").read_bytes() == b""
