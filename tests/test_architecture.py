"""The picture in the supervisor's docstring, as an import graph: the arrows point down."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mprelay

PACKAGE = Path(mprelay.__file__).parent
ALLOWED = {
    "__init__": set(),
    "__main__": {"early", "signals", "spawning", "supervisor"},
    "acl": set(),
    "addresses": {"sockets"},
    "boottime": set(),
    "events": set(),
    "origin": set(),
    "poller": set(),
    "pump": {"sockets"},
    "sockets": set(),
    "catalogue": {"events"},
    "config": {"acl", "catalogue", "cpus"},
    "cpus": set(),
    "handoff": {"events"},
    "limits": {"handoff"},
    "ledger": {"events"},
    "session": {"events"},
    "early": set(),
    "signals": {"early", "poller"},
    "titles": set(),
    "outlet": {"signals", "titles"},
    "spawning": {"signals"},
    "writer": {"outlet", "spawning"},
    "uplink": {"events"},
    "cli": {"config", "catalogue"},
    "journal": {"catalogue", "events", "ledger", "refusals", "writer"},
    "refusals": set(),
    "relay": {"boottime", "events", "handoff", "poller", "pump", "session", "sockets", "uplink"},
    "worker": {"events", "handoff", "relay", "signals", "titles", "uplink"},
    "pool": {"events", "handoff", "spawning", "uplink", "worker"},
}
PURE = {"acl", "catalogue", "cli", "config", "events", "ledger", "refusals", "session"}
IMPURE_LIBRARIES = {"socket", "select", "time", "multiprocessing", "threading", "subprocess", "signal"}

# What a platform may lack, and the one module that may speak of it; of signals also what comes before it.
PLACES = {
    "epoll": "poller",
    "SCM_RIGHTS": "handoff",
    "SEQPACKET": "handoff",
    "RLIMIT": "limits",
    "pthread_sigmask": "signals early",
    "setitimer": "signals",
    "SIGHUP": "signals early",
    "clock_gettime": "boottime",
    "timerfd": "boottime",
    "queues": "uplink",
    "adjtimex": "origin",
    "SO_LINGER": "sockets",
    "sched_getaffinity": "cpus",
}


def imports(module):
    """What a module imports: ours by short name, others by their first name."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first != "mprelay":
                others.add(first)
            elif rest and (PACKAGE / f"{rest[0]}.py").exists():
                ours.add(rest[0])
    return ours, others


MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


@pytest.mark.parametrize("module", [name for name in MODULES if name != "supervisor"])
def test_arrows_point_down(module):
    """Each module imports at most what its level allows."""
    assert imports(module)[0] <= ALLOWED[module]


def test_supervisor_knows_nothing_of_relaying():
    """The process boundary shows in the import graph."""
    assert imports("supervisor")[0].isdisjoint({"relay", "session"})


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_parts_have_no_socket_clock_or_process(module):
    """They are tested completely, without any of these."""
    assert imports(module)[1].isdisjoint(IMPURE_LIBRARIES)


@pytest.mark.parametrize("module", MODULES)
def test_each_thing_of_the_platform_has_one_place(module):
    """Code, not comments: an interface says nothing of what is behind it."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in ast.walk(tree):  # docstrings and comments may say what they like
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    code = ast.unparse(tree)
    code = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "''", code)
    for word, place in PLACES.items():
        if module not in place.split():
            assert word not in code, f"{word} belongs to {place}"


def run(code, *args):
    """Run Python code in a fresh interpreter; return what it prints."""
    return subprocess.run(
        [sys.executable, *args, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_a_worker_starts_small():
    """Neither structlog nor psutil nor what else only the supervisor needs."""
    code = "import sys, mprelay.__main__, mprelay.worker; print(*sys.modules)"
    loaded = set(run(code).split())
    unwanted = {"structlog", "psutil", "argparse", "asyncio", "ipaddress"}
    assert loaded.isdisjoint(unwanted | {"mprelay.journal", "mprelay.ledger", "mprelay.config"})


def test_the_outlet_starts_smaller():
    """It shares nothing with the others but how signals are ignored and a process is named."""
    code = "import sys, mprelay.__main__, mprelay.outlet; print(*sys.modules)"
    loaded = set(run(code).split())
    assert loaded.isdisjoint({"structlog", "psutil", "orjson", "argparse", "asyncio", "ipaddress"})
    ours = {name for name in loaded if name.startswith("mprelay")}
    assert ours == {
        "mprelay",
        *(f"mprelay.{name}" for name in ("__main__", "early", "outlet", "signals", "titles")),
    }


def test_the_main_module_imports_nothing_until_it_is_called():
    """Spawn imports it again in every worker."""
    code = "import sys; had = set(sys.modules); import mprelay.__main__; print(*sorted(set(sys.modules) - had))"
    assert run(code).split() == ["mprelay", "mprelay.__main__"]


def test_signals_are_held_back_before_anything_is_loaded():
    """Until then a stop signal ends the program without a record."""
    code = "import sys; had = set(sys.modules); import mprelay.early; print(*sorted(set(sys.modules) - had))"
    assert set(run(code, "-S").split()) <= {"_signal", "mprelay", "mprelay.early"}
    tree = ast.parse((PACKAGE / "__main__.py").read_text())
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    assert [ast.unparse(node) for node in main.body[1:3]] == ["from mprelay import early", "early.hold_back()"]


def test_importing_works_where_the_platform_has_nothing():
    """No ImportError without epoll, SCM_RIGHTS, or the resource module."""
    code = f"""
import sys, select, socket
del select.epoll, socket.SCM_RIGHTS, socket.SOCK_SEQPACKET, socket.MSG_CMSG_CLOEXEC
sys.modules["resource"] = None
import importlib
for module in {MODULES}:
    if module != "__main__":
        importlib.import_module("mprelay." + module)
from mprelay import handoff, poller
print(poller.missing(), handoff.missing())
"""
    assert run(code).split() == ["epoll", "SOCK_SEQPACKET"]
