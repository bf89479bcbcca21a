"""Signals become readiness; workers are deaf."""

import os
import select
import signal
import subprocess
import sys

import pytest

from mprelay import signals
from mprelay.signals import Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_makes_the_descriptor_readable_and_nothing_else(number):
    """No exception in the middle of anything."""
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
    """A hang-up that was ignored from the start stays ignored; a background job's SIGINT is heard."""
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


def test_held_signals_come_afterwards():
    """None is lost while a process is started."""
    caught = Signals()
    try:
        with signals.held():
            os.kill(os.getpid(), signal.SIGTERM)
            assert caught.take() == []
        assert select.select([caught], [], [], 20)[0] == [caught]
        assert caught.take() == [signal.SIGTERM]
    finally:
        caught.close()


def test_a_process_started_meanwhile_cannot_be_interrupted_and_then_ignores():
    """The mask is inherited over exec; then the worker makes itself deaf for good."""
    code = (
        "import os, signal; from mprelay import signals\n"
        "print('begun', flush=True); input(); signals.ignore()\n"
        "[os.kill(os.getpid(), n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)"
    )
    with signals.held():
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    with process:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
        assert process.stdout.readline() == "begun\n"
        assert process.communicate("\n", timeout=20)[0] == "set()\n"
        assert process.returncode == 0


def test_names():
    """As signal(7) has them."""
    assert signals.name(9) == "SIGKILL"
    assert signals.name(1000) == "SIG1000"
