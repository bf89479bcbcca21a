"""The need for descriptors, computed before anything starts."""

import contextlib

import pytest

from mprelay.system import limits, limits_windows
from mprelay.system.limits import LimitTooLow

with contextlib.suppress(ImportError):  # Windows has none
    import resource

pytestmark = pytest.mark.posix("RLIMIT_NOFILE")


@pytest.fixture(autouse=True)
def _limits_as_before():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def hard(monkeypatch):
    """Pretend a hard limit, because an ordinary user could not raise a real one again."""
    calls = []

    def pretend(soft, hard):
        monkeypatch.setattr(resource, "getrlimit", lambda _what: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", lambda _what, pair: calls.append(pair))
        return calls

    return pretend


def test_the_soft_limit_is_raised_for_real():
    """The limit covers all sessions in one worker, in case the others die."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert limits.reserve(500, 4, 64) == (500, 64)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1016 + 128, hard)


def test_a_sufficient_limit_is_left_alone(hard):
    """No system call is made without need."""
    calls = hard(4096, 4096)
    assert limits.reserve(500, 2, 64) == (500, 64)
    assert calls == []


def test_the_usual_1024_is_enough_for_500_sessions_in_one_worker(hard):
    """It is the default of most systems."""
    hard(1024, 1024)
    assert limits.reserve(500, 1, 64) == (500, 4)


def test_each_worker_gets_at_least_its_share(hard):
    """Sessions that do not all fit into one worker are spread."""
    calls = hard(1024, 4096)
    assert limits.reserve(5000, 4, 64) == ((4096 - 16) // 2, 0)
    assert calls == [(4096, 4096)]


def test_too_low_is_refused_with_numbers(hard):
    """The relay refuses to start rather than to fail at session 25."""
    hard(64, 64)
    with pytest.raises(LimitTooLow, match=r"500 sessions over 2 workers need 516 .* 64"):
        limits.reserve(500, 2, 64)


def test_the_supervisor_needs_its_own(hard):
    """The case is many workers with few sessions each."""
    calls = hard(40, 1000)
    limits.reserve(20, 16, 64)
    assert calls == [(20 * 2 + 16 + 128, 1000)]
    hard(40, 50)
    with pytest.raises(LimitTooLow, match="132 in the supervisor"):
        limits.reserve(20, 16, 64)


def test_an_unlimited_hard_limit_is_enough(hard):
    """RLIM_INFINITY."""
    calls = hard(resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert limits.reserve(100_000, 1, 64) == (100_000, 64)
    assert calls == []


def test_a_limit_that_a_sandbox_does_not_allow_to_be_raised(hard, monkeypatch):
    """It is enough for the shares, or it is refused."""

    def refused(_what, _pair):
        raise PermissionError("not here")

    hard(600, 4096)
    monkeypatch.setattr(resource, "setrlimit", refused)
    assert limits.reserve(500, 2, 64) == ((600 - 16) // 2, 0)
    with pytest.raises(LimitTooLow, match=r"1016 open files in one process are needed: not here"):
        limits.reserve(500, 1, 64)


def test_a_limit_that_a_sandbox_hides(monkeypatch):
    """It counts as no limit."""

    def refused(_what):
        raise PermissionError("not here")

    monkeypatch.setattr(resource, "getrlimit", refused)
    assert limits.reserve(500, 2, 64) == (500, 64)


def test_a_need_above_the_limit_of_the_kernel_is_refused_too():
    """`fs.nr_open` applies in addition to any hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(LimitTooLow):
        limits.reserve(2_000_000_000, 1, 64)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard


# -- a system on which a worker holds only so many sessions, and any number of files ---------------------------


@pytest.fixture
def few(monkeypatch):
    """The variant of Windows."""
    for name in ("SESSIONS_PER_WORKER", "PIPES", "raise_limit"):
        monkeypatch.setattr(limits, name, getattr(limits_windows, name))
    return limits_windows.SESSIONS_PER_WORKER


def test_a_worker_gets_no_more_sessions_than_it_can_hold(few):
    """When another dies it takes over what fits."""
    assert few == 254
    assert limits.reserve(100, 1, 64) == (100, 0)
    assert limits.reserve(254, 1, 64) == (254, 0)
    assert limits.reserve(500, 2, 64) == (254, 0)
    assert limits.reserve(500, 4, 64) == (254, 0)


@pytest.mark.usefixtures("few")
def test_a_share_that_a_worker_cannot_hold_is_refused():
    """The configuration has refused it before, in more words."""
    with pytest.raises(LimitTooLow, match="600 sessions over 2 workers are 300 for each, which holds 254"):
        limits.reserve(600, 2, 64)
