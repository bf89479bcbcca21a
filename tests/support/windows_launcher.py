"""Runs the program on Windows, where tests cannot signal it: ``windows_launcher.py PORT ARGUMENT...``.

A thread connects to the test, at PORT of loopback (0: no test listens), says its process id, and obeys lines of
JSON: a verb and its argument. It answers each with a line. Process ids are those of Windows.

multiprocessing's children import this file too, under another name, and run none of it.
"""

import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any


def _signal(name: str) -> None:
    """Raise a signal in this process, as the C library does for Ctrl-C and Ctrl-Break."""
    signal.raise_signal(getattr(signal, name))


def _kill(pid: int) -> None:
    """End a process by TerminateProcess. 9 becomes its exit code."""
    os.kill(pid, 9)


def _children(pid: int) -> list[int]:
    """The children of a process, in the order in which they were started."""
    import psutil  # noqa: PLC0415 - only a test that asks waits for it

    return [child.pid for child in sorted(psutil.Process(pid).children(), key=psutil.Process.create_time)]


def _suspend(pid: int) -> None:
    import psutil  # noqa: PLC0415

    psutil.Process(pid).suspend()


def _resume(pid: int) -> None:
    import psutil  # noqa: PLC0415

    psutil.Process(pid).resume()


def _memory(pid: int) -> int:
    import psutil  # noqa: PLC0415

    return psutil.Process(pid).memory_info().rss


def _stacks(_nothing: None) -> list[str]:
    """What each thread of this process does right now, for whoever looks for the cause of a hang."""
    return ["".join(traceback.format_stack(frame)) for frame in sys._current_frames().values()]


VERBS: dict[str, Callable[[Any], object]] = {
    "signal": _signal,
    "kill": _kill,
    "children": _children,
    "suspend": _suspend,
    "resume": _resume,
    "memory": _memory,
    "stacks": _stacks,
}


def obey(port: int) -> None:
    """Do what the test says, until it has closed the connection."""
    with socket.create_connection(("127.0.0.1", port)) as control, control.makefile("rw", newline="\n") as lines:

        def answer(what: Any) -> None:
            lines.write(json.dumps(what) + "\n")
            lines.flush()

        answer(os.getpid())
        for line in lines:
            verb, argument = json.loads(line)
            try:
                answer({"answer": VERBS[verb](argument)})
            except Exception as failure:  # noqa: BLE001 - the test raises it
                answer({"failure": repr(failure)})


if __name__ == "__main__":
    del sys.path[0]  # this folder: its modules are no part of the program
    if port := int(sys.argv.pop(1)):
        threading.Thread(target=obey, args=(port,), daemon=True).start()
    from mprelay.__main__ import main

    main()
