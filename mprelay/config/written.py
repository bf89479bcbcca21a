"""Files that a person wrote for the relay, as text: UTF-8, with or without a byte order mark."""

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable


def read_text(path: str, read_file: Callable[[str], bytes]) -> str:
    """Read a whole file. Raises ValueError: what is wrong with it.

    Args:
        path: Its absolute path.
        read_file: Reads it. It raises OSError, or ValueError: what is wrong with the file.

    """
    try:
        data = read_file(path)
    except OSError as failure:
        raise ValueError(f"cannot be read: {failure.strerror}") from failure
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):  # what ">" of Windows PowerShell writes
        raise ValueError("is UTF-16, and must be UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise ValueError(f"is not UTF-8: its byte {failure.start + 1} belongs to no character") from None
