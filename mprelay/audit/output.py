"""What the commands of mprelayctl leave behind: files, and complaints."""

import os
import secrets
import sys
from pathlib import Path
from typing import Final

from mprelay.ctl.figures import escaped

_NAME_LIMIT: Final = 100  # characters of the file's name in that of its draft, as a name may have 255 bytes


def store(file: Path, data: bytes) -> None:
    """Write a file: all of it, or nothing. Raises OSError."""
    draft = file.with_name(f".{file.name[:_NAME_LIMIT]}.{secrets.token_hex(8)}")
    try:
        with draft.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def complain(what: str, code: int) -> int:
    """Say on stderr what is wrong; return the exit code."""
    print(f"mprelayctl: {escaped(what)}", file=sys.stderr)  # noqa: T201
    return code
