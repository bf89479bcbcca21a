"""Unexpected exceptions, in words."""

import os

from mprelay.core.texts import valid


def place_of(unexpected: BaseException) -> str:
    """Tell where an exception was raised: file:line function."""
    trace = unexpected.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    code = trace.tb_frame.f_code
    return valid(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno} {code.co_name}")  # noqa: PTH119 - no pathlib in a worker


def describe(unexpected: BaseException) -> str:
    """Return an exception's type and text, at most 200 characters."""
    return valid(f"{type(unexpected).__name__}: {unexpected}"[:200])[:200]  # half characters grow sixfold
