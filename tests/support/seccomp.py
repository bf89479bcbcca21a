"""Runs a program in which chosen system calls really fail: ``seccomp.py RULE... -- PROGRAM ARG...``.

A rule is ``CALL[,ARGUMENT=VALUE...]:ERRNO``, such as ``listen:EADDRINUSE``, or ``epoll_ctl,1=1,2=9:ENOMEM`` for
the call whose second argument (counting from 0) is 1 and whose third is 9. Only the lower 32 bits of an argument
are compared. With ``0`` instead of an errno the call succeeds and does nothing.

The kernel itself answers (seccomp(2), a BPF filter) instead of running the call, in the program and in all its
children. A call that does not exist on this machine's architecture (``fork`` on aarch64) cannot be made, so its
rule is left out.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# name: number on x86_64, on aarch64 (asm/unistd_64.h, asm-generic/unistd.h)
CALLS = {
    "accept4": (288, 242),
    "adjtimex": (159, 171),
    "bind": (49, 200),
    "chdir": (80, 49),
    "clock_adjtime": (305, 266),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "connect": (42, 203),
    "dup2": (33, None),
    "dup3": (292, 24),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22),
    "epoll_wait": (232, None),
    "fcntl": (72, 25),
    "fork": (57, None),
    "getpid": (39, 172),
    "getrlimit": (97, 163),
    "getsockname": (51, 204),
    "ioctl": (16, 29),
    "kill": (62, 129),
    "listen": (50, 201),
    "pidfd_open": (434, 434),
    "pipe2": (293, 59),
    "poll": (7, None),
    "ppoll": (271, 73),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "sched_getaffinity": (204, 123),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "setitimer": (38, 103),
    "setsockopt": (54, 208),
    "shutdown": (48, 210),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "splice": (275, 76),
    "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86),
    "vfork": (58, None),
    "wait4": (61, 260),
    "waitid": (247, 95),
    "write": (1, 64),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of CALLS, AUDIT_ARCH_*

# linux/bpf_common.h, linux/seccomp.h, linux/prctl.h
LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K
NUMBER_AT, MACHINE_AT, ARGUMENTS_AT = 0, 4, 16  # in struct seccomp_data
ALLOW, FAIL = 0x7FFF0000, 0x00050000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


class Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def conditions(rule: str, column: int) -> tuple[list[tuple[int, int]], int] | None:
    """Take a rule apart: (offset in struct seccomp_data, value) of each condition, and the errno."""
    call, _, name = rule.partition(":")
    call, *arguments = call.split(",")
    number = CALLS[call][column]
    if number is None:
        return None
    checks = [(NUMBER_AT, number)]
    for argument in arguments:
        index, _, value = argument.partition("=")
        checks.append((ARGUMENTS_AT + 8 * int(index), int(value, 0) & 0xFFFFFFFF))
    return checks, 0 if name == "0" else getattr(errno, name)


def compiled(rules: list[str], machine: str) -> bytes:
    """Make the filter. Each rule is one block, and a condition that does not hold jumps to the next block."""
    column, audit = MACHINES[machine]
    instruction = struct.Struct("=HBBI").pack  # struct sock_filter: code, jump if true, if false, constant
    code = instruction(LOAD, 0, 0, MACHINE_AT) + instruction(IF_EQUAL, 1, 0, audit)
    code += instruction(RETURN, 0, 0, ALLOW)
    for rule in rules:
        if (parts := conditions(rule, column)) is None:
            continue
        checks, number = parts
        for left, (offset, value) in zip(range(len(checks) - 1, -1, -1), checks, strict=True):
            code += instruction(LOAD, 0, 0, offset) + instruction(IF_EQUAL, 0, 2 * left + 1, value)
        code += instruction(RETURN, 0, 0, FAIL | number)
    return code + instruction(RETURN, 0, 0, ALLOW)


def install(code: bytes) -> None:
    """Install the filter for this process and all its future children. It cannot be removed."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    program = Program(len(code) // 8, code)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))),
        (PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program)),
    ):
        if prctl(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def main(arguments: list[str]) -> None:
    """Install the filter, and replace this process by the program."""
    end = arguments.index("--")
    install(compiled(arguments[:end], platform.machine()))
    os.execvp(arguments[end + 1], arguments[end + 1 :])  # noqa: S606 - a shell is not wanted


if __name__ == "__main__":
    main(sys.argv[1:])
