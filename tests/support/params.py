"""Parameters of which the first are run every time, and the others only among the slow tests."""

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Mark these values of a parameter; a tuple is one value of several names."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]
