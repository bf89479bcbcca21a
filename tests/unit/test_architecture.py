"""The folders of the package as an import graph: each folder imports only folders below it."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mprelay

PACKAGE = Path(mprelay.__file__).parent

FLOORS = {
    "": {"app", "system"},  # __main__ and __init__
    "app": {"supervisor", "config", "records", "seal", "core", "system"},
    "supervisor": {
        *("config", "records", "seal", "channel", "system", "core"),
        *("worker:main", "outlet:main", "reading:main", "resolving:main", "metering:main"),
    },
    "ctl": {"audit", "config.parsers", "records.render", "core"},
    "audit": {"ctl.figures", "seal", "records.catalogue", "core"},
    "worker": {"channel", "system", "core"},
    "outlet": {"system"},
    "reading": {"channel.helper", "config", "system", "core"},
    "resolving": {"channel.helper", "config", "system", "core"},
    "metering": {"channel.helper", "system", "core"},
    "config": {"records.catalogue", "core"},
    "records": {"seal", "core", "system"},
    "seal": set(),
    "channel": {"core", "system"},
    "system": set(),
    "core": set(),
}
"""The folders that each folder may import besides itself.

The supervisor names only the entry points of worker and outlet.
"""

PROCESSES = {
    "mprelay.worker.process": {"worker", "channel", "system", "core"},
    "mprelay.outlet.copying": {"outlet", "system"},
    "mprelay.ctl.program": {"ctl", "audit", "seal", "config", "records", "core"},
    "mprelay.reading.process": {"reading", "channel", "config", "records", "system", "core"},
    "mprelay.resolving.process": {"resolving", "channel", "config", "records", "system", "core"},
    "mprelay.metering.process": {"metering", "channel", "system", "core"},
}
"""The first module of each process, and the folders that it may load, directly or indirectly."""

PURE = {
    *("core", "config", "records.catalogue", "records.about", "records.fitting"),
    *("records.ecs", "records.gcp", "records.ocsf", "records.text", "ctl.screen", "ctl.figures"),
    *("audit.anchored", "audit.forms", "audit.prove", "audit.run", "audit.verify"),
    *("audit.checks", "audit.door", "audit.fields", "audit.markup", "audit.page", "audit.report", "audit.seals"),
    *("audit.sections", "audit.serials", "audit.story", "audit.tables", "audit.timeline", "audit.times"),
    *("audit.totals", "audit.traffic", "audit.words"),
    *("seal.tree", "seal.notes", "seal.sealer"),
}
IMPURE_LIBRARIES = {"socket", "select", "time", "multiprocessing", "threading", "subprocess", "signal"}

SCREEN = {"ctl.feed", "ctl.terminal", "ctl.top"}
"""The screen of mprelayctl. Its libraries need termios and resource, and it is loaded on a terminal only."""

# Features that a platform may lack, and the modules that may name them.
PLACES = {
    "epoll": "system.poller system.poller_epoll",
    "SCM_RIGHTS": "system.passing_rights",
    "SEQPACKET": "system.passing_rights",
    "RLIMIT": "system.limits_posix",
    "pthread_sigmask": "system.signals_posix system.early ctl.terminal",
    "setitimer": "system.signals_posix",
    "SIGHUP": "system.signals_posix system.early",
    "clock_gettime": "system.boottime_linux",
    "timerfd": "system.boottime_linux",
    "queues": "channel.up",
    "adjtimex": "system.origin_linux",
    "SO_LINGER": "system.sockets system.sockets_linux system.sockets_windows",
    "sched_getaffinity": "system.cpus_linux",
}


def name_of(path):
    """The dotted name of a file's module, without the package's: core.acl.

    A folder's __init__ has the folder's name.
    """
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(module):
    """All imports of a module, at any depth: ours as (module, name), others by their first name."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [(str(node.module), alias.name) for alias in node.names]
        else:
            continue
        for where, name in found:
            first, _, rest = where.partition(".")
            if first != "mprelay":
                others.add(first)
            elif f"{rest}.{name}".lstrip(".") in FILES:
                ours.add((f"{rest}.{name}".lstrip("."), ""))
            elif rest:
                ours.add((rest, name))
    return ours, others


GRAPH = {module: {other for other, _ in imports(module)[0]} for module in FILES}


def floor(module):
    """The folder of a module; app is its own folder."""
    first, _, rest = module.partition(".")
    return first if rest or (PACKAGE / first).is_dir() or first == "app" else ""


def reached(module):
    """All modules that a module loads, directly or indirectly."""
    found, left = set(), [module]
    while left:
        for other in GRAPH[left.pop()] - found:
            found.add(other)
            left.append(other)
    return found


@pytest.mark.parametrize("module", FILES)
def test_arrows_point_down(module):
    """Each module imports at most what its folder may import."""
    own = floor(module)
    for other, name in imports(module)[0]:
        allowed = FLOORS[own] | {own}
        entry = f"{other}:{name or 'main'}"
        assert floor(other) in allowed or other in allowed or entry in allowed, f"{module} imports {other} {name}"


@pytest.mark.parametrize("start", PROCESSES)
def test_a_process_loads_only_its_own_folders(start):
    """The arrows hold for indirect imports too."""
    reachable = {floor(module) for module in reached(start.removeprefix("mprelay."))}
    assert reachable <= PROCESSES[start]


def test_no_import_is_circular():
    """Otherwise CycleError names the modules."""
    assert [*TopologicalSorter(GRAPH).static_order()]


def is_pure(module):
    """Whether a module is in the list of pure modules."""
    return floor(module) in PURE or module in PURE


@pytest.mark.parametrize("module", [*filter(is_pure, FILES)])
def test_pure_parts_have_no_socket_clock_or_process(module):
    """That is why they can be tested completely."""
    assert imports(module)[1].isdisjoint(IMPURE_LIBRARIES)


@pytest.mark.parametrize("module", FILES)
def test_each_feature_of_the_platform_has_one_place(module):
    """Only code is checked, not comments. An interface does not name its implementation."""
    tree = ast.parse(FILES[module].read_text())
    for node in ast.walk(tree):  # docstrings and comments may name anything
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    code = ast.unparse(tree)
    code = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "''", code)
    for word, place in PLACES.items():
        if module not in place.split():
            assert word not in code, f"{word} belongs to {place}"


@pytest.mark.parametrize("module", FILES)
def test_no_class_is_too_large(module):
    """A class with more methods does several things."""
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            assert len(methods) <= 20, f"{node.name} has {len(methods)} methods"


@pytest.mark.parametrize("module", FILES)
def test_nothing_stands_in_the_way_of_a_compiler(module):
    """Nested and conditional classes, and a KeyError of ours, are what mypyc cannot compile (docs/design.md)."""
    tree = ast.parse(FILES[module].read_text())
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert [node.name for node in classes if node not in tree.body] == []
    bases = {base.id for node in classes for base in node.bases if isinstance(base, ast.Name)}
    assert "KeyError" not in bases
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "_thread" not in attributes


def run(code, *args):
    """Run Python code in a fresh interpreter; return its output."""
    return subprocess.run(
        [sys.executable, *args, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_a_worker_starts_small():
    """It loads neither structlog nor psutil nor anything else that only the supervisor needs."""
    code = "import sys, mprelay.__main__, mprelay.worker.process; print(*sys.modules)"
    loaded = set(run(code).split())
    unwanted = {"structlog", "psutil", "argparse", "asyncio", "ipaddress"}
    assert loaded.isdisjoint(unwanted | {"mprelay.records", "mprelay.core.ledger", "mprelay.config"})


@pytest.mark.posix("the variants for Linux")
def test_the_outlet_starts_smaller():
    """It shares only two things with the others: how signals are ignored, and how a process is named."""
    code = "import sys, mprelay.__main__, mprelay.outlet.copying; print(*sys.modules)"
    loaded = set(run(code).split())
    assert loaded.isdisjoint({"structlog", "psutil", "orjson", "argparse", "asyncio", "ipaddress"})
    ours = {name for name in loaded if name.startswith("mprelay")}
    assert ours == {
        "mprelay",
        *(f"mprelay.{name}" for name in ("__main__", "outlet", "outlet.copying", "outlet.notebook", "system")),
        *(f"mprelay.system.{name}" for name in ("early", "poller", "poller_epoll", "signals", "signals_posix")),
        *(f"mprelay.system.{name}" for name in ("stdio", "stdio_posix", "streams", "streams_posix", "titles")),
    }


def test_the_main_module_imports_nothing_until_it_is_called():
    """Spawn imports it again in every worker."""
    code = "import sys; had = set(sys.modules); import mprelay.__main__; print(*sorted(set(sys.modules) - had))"
    assert run(code).split() == ["mprelay", "mprelay.__main__"]


def test_signals_are_blocked_before_anything_is_loaded():
    """Without that, a stop signal in this moment would end the program without a record."""
    code = "import sys; had = set(sys.modules); import mprelay.system.early; print(*set(sys.modules) - had)"
    assert set(run(code, "-S").split()) <= {"_signal", "mprelay", "mprelay.system", "mprelay.system.early"}
    tree = ast.parse((PACKAGE / "__main__.py").read_text())
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    assert [ast.unparse(node) for node in main.body[1:3]] == [
        "from mprelay.system import early",
        "early.hold_back()",
    ]


@pytest.mark.posix("the features which are taken away")
def test_importing_works_on_a_platform_without_any_feature():
    """There is no ImportError without epoll, SCM_RIGHTS, or the resource module."""
    code = f"""
import sys, select, socket
import psutil, prometheus_client  # libraries see to themselves
del select.epoll, socket.SCM_RIGHTS, socket.SOCK_SEQPACKET, socket.MSG_CMSG_CLOEXEC
sys.modules["resource"] = None
import importlib
for module in {[module for module in FILES if module not in SCREEN]}:
    if module not in ("", "__main__") and not module.endswith("_windows"):
        importlib.import_module("mprelay." + module)
from mprelay.system import passing, poller
print(poller.missing(), passing.missing())
"""
    assert run(code).split() == ["epoll", "SOCK_SEQPACKET"]
