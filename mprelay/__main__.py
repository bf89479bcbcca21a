"""Entry point of the command ``mprelay`` and of ``python -m mprelay``.

The *spawn* start method imports this module again in every worker (as ``__mp_main__``). Nothing is imported
until :func:`main` is called, so that a worker does not load what only the supervisor needs.
"""


def main() -> None:
    """Run the relay with the arguments of this process; exit with its code."""
    from mprelay.system import early  # noqa: PLC0415 - see the module docstring

    early.hold_back()  # before the slow imports: a signal that comes during them is taken later

    import os  # noqa: PLC0415
    import sys  # noqa: PLC0415

    if getattr(sys, "frozen", False) and ("--multiprocessing-fork" in sys.argv or "-c" in sys.argv):
        from mprelay.system.spawning import be_child  # noqa: PLC0415

        be_child(sys.argv)  # a frozen program is its own interpreter, so this process may be a child of it

    from mprelay.system import signals  # noqa: PLC0415

    signals.begin()

    from mprelay import app  # noqa: PLC0415

    code = app.main(sys.argv[1:])
    os._exit(code)  # a normal interpreter exit takes longer than everything else at an expiry


if __name__ == "__main__":
    main()
