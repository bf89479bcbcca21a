"""A known state at the start; signals become readiness; workers ignore them."""

import os
import select
import signal
import subprocess
import sys
import threading

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: signals, masks and timers", allow_module_level=True)

from mprelay.system import signals
from mprelay.system.signals import Signals

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU)


def printed(code):
    """The output of a program."""
    command = [sys.executable, "-c", "import os, signal\nfrom mprelay.system import signals\n" + code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()


def test_it_begins_in_a_known_state():
    """Ignored and blocked signals and running timers are reset. A child begins in the same state."""
    assert printed("""
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
timers = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
for timer in timers:
    signal.setitimer(timer, 100)
signals.begin()
print({signal.getitimer(timer) for timer in timers} == {(0, 0)})
caught = signals.Signals()
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set())
by_default = {n.name for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_DFL}
heard = {n.name for n in signal.valid_signals() if callable(signal.getsignal(n))}
print(*sorted(by_default), *sorted(heard))
signals.ignore()
print(*sorted({n.name for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_DFL} ^ by_default))
""") == [
        "True",
        "True",
        *("SIGABRT", "SIGBUS", "SIGCHLD", "SIGCONT", "SIGFPE", "SIGILL", "SIGKILL", "SIGSEGV"),
        *("SIGSTOP", "SIGSYS", "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"),
        *("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGXCPU"),
    ]


def test_an_early_stop_signal_is_handled_later():
    """SIGINT causes no traceback. After :func:`release` alone it acts by default."""
    assert printed("""
signals.begin()
os.kill(os.getpid(), signal.SIGINT)
os.kill(os.getpid(), signal.SIGQUIT)
print(*sorted(signals.Signals().take()))
""") == ["2", "3"]
    code = "import os\nfrom mprelay.system import signals\n"
    code += "signals.begin()\nos.kill(os.getpid(), 2)\nsignals.release()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=20)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("number", STOP)
def test_a_signal_makes_the_descriptor_readable_and_nothing_else(number):
    """No exception interrupts other code."""
    caught = Signals()
    try:
        assert caught.take() == []
        os.kill(os.getpid(), number)
        assert select.select([caught], [], [], 20)[0] == [caught]
        assert caught.take() == [number]
    finally:
        caught.close()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_nohup_is_respected():
    """A hang-up that was ignored from the start stays ignored. A background job's SIGINT is handled."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    caught = Signals()
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGINT)
        assert select.select([caught], [], [], 20)[0] == [caught]
        assert caught.take() == [signal.SIGINT]
    finally:
        caught.close()
        signal.signal(signal.SIGHUP, before)


def test_signals_that_are_blocked_arrive_afterwards():
    """None is lost while a process is started."""
    caught = Signals()
    try:
        with signals.held_back():
            # To this thread: another thread of the process (pytest-xdist has one) would receive it at once.
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            assert caught.take() == []
        assert select.select([caught], [], [], 20)[0] == [caught]
        assert caught.take() == [signal.SIGTERM]
    finally:
        caught.close()


def test_a_new_process_cannot_be_interrupted_and_then_ignores_signals():
    """The mask is inherited over exec. Then the worker ignores the signals for good."""
    code = (
        "import os, signal; from mprelay.system import signals\n"
        "print('begun', flush=True); input(); signals.ignore()\n"
        f"[os.kill(os.getpid(), n) for n in {tuple(map(int, STOP))}]\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)"
    )
    with signals.held_back():
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    with process:
        for number in STOP:
            process.send_signal(number)
        assert process.stdout.readline() == "begun\n"
        assert process.communicate("\n", timeout=20)[0] == "set()\n"
        assert process.returncode == 0


def test_the_end_of_a_child_is_no_stop_signal():
    """It is reported if that is asked for, and hidden from readers of the stop signals."""
    ended = []
    caught = Signals(lambda: ended.append(True))
    try:
        subprocess.run([sys.executable, "-c", ""], check=True, timeout=20)
        assert select.select([caught], [], [], 20)[0] == [caught]
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught.take() == [signal.SIGTERM]
        assert ended == [True]
        assert caught.take() == []
    finally:
        caught.close()
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


def test_a_signal_has_its_name_of_signal_7():
    assert signals.name(9) == "SIGKILL"
    assert signals.name(1000) == "SIG1000"
