"""A second try, in CI, for tests that hold the program to a bound in wall-clock time, and for no others.

Other users of a machine may make such a test miss its bound. Only a test marked ``wall_clock``, with the bound as
the reason, is tried again. Each test that failed and then passed is shown and counted, over all runs of a build.
A build with more than three fails, because then the machine is no longer a likely reason.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

MOST_SECOND_TRIES = 3

_needed = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """A file that the runs of one build share switches the second try on."""
    parser.addoption("--second-tries", metavar="FILE", help="try wall_clock tests again, and note in FILE which")


def pytest_configure(config: pytest.Config) -> None:
    """Begin the list of this run."""
    config.stash[_needed] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a marked test, and once more if it failed. The last try is reported."""
    marker = item.get_closest_marker("wall_clock")
    if marker is None or not item.config.option.second_tries:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if any(report.failed for report in reports):
        first = reports
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if not any(report.failed for report in reports):
            why = next(report for report in first if report.failed).longreprtext.splitlines()[-1]
            item.config.stash[_needed].append(f"{item.nodeid}: {marker.args[0]} ({why})")
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Append this run's list to the file. Fail above the bound."""
    if file := session.config.option.second_tries:
        with Path(file).open("a") as notes:
            notes.writelines(f"{line}\n" for line in session.config.stash[_needed])
        if len(Path(file).read_text().splitlines()) > MOST_SECOND_TRIES:
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show which tests needed a second try so far. The file also has those of pytest-xdist's workers."""
    if file := config.option.second_tries:
        needed = Path(file).read_text().splitlines()
        for line in needed:
            terminalreporter.write_line(f"FAILED, THEN PASSED {line}", yellow=True)
        terminalreporter.write_line(
            f"{len(needed)} second tries in this build so far, {MOST_SECOND_TRIES} are allowed"
        )
