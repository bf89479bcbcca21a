"""Fuzzes one input of mprelay with atheris, which watches the code that its bytes reach.

Arguments after the name of the input go to libFuzzer, such as ``-max_total_time=600``. An input that breaks
something is written to a file (crash-...). Given as an argument, the file is tried again.
``tests/support/inputs.py`` says what must hold.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
with atheris.instrument_imports(include=["mprelay", "ipaddress", "argparse"]):
    from support.inputs import SEEDS, WAYS


def main() -> None:
    """Fuzz one input until it breaks or the time is over."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("way", choices=WAYS)
    asked, for_the_fuzzer = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS[asked.way]):
            (Path(corpus) / str(number)).write_bytes(seed)
        given_files = any(not argument.startswith("-") for argument in for_the_fuzzer)
        atheris.Setup([sys.argv[0], *for_the_fuzzer, *([] if given_files else [corpus])], WAYS[asked.way])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
