"""For how long admission has been paused, by what paused it. Moments are arguments, monotonic, in seconds."""


class Pauses:
    """The pauses of one run. At each moment there is one cause, or none."""

    __slots__ = ("_cause", "_seconds", "_since")

    def __init__(self) -> None:
        self._cause: str | None = None
        self._since = 0.0
        self._seconds: dict[str, float] = {}

    def note(self, cause: str | None, now: float) -> None:
        """Note what holds admission back from `now` on; None: nothing."""
        if cause == self._cause:
            return
        self._count(now)
        self._cause = cause

    def seconds(self, now: float) -> dict[str, float]:
        """Return the seconds so far, by cause, the pause that lasts included."""
        self._count(now)
        return dict(self._seconds)

    def _count(self, now: float) -> None:
        if self._cause is not None:
            self._seconds[self._cause] = self._seconds.get(self._cause, 0.0) + now - self._since
        self._since = now
