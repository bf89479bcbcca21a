"""Entry point of the command ``mprelay`` and of ``python -m mprelay``.

The *spawn* start method imports this module again in every worker (as ``__mp_main__``). Nothing is imported
until :func:`main` is called, so that a worker does not load what only the supervisor needs.
"""


def main() -> int:
    """Run the relay with the arguments of this process; return its exit code."""
    from mprelay import signals  # noqa: PLC0415 - see the module docstring

    signals.begin()  # before the imports that take time: a signal that comes meanwhile is heard later

    import sys  # noqa: PLC0415

    from mprelay.supervisor import main as supervise  # noqa: PLC0415

    return supervise(sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
