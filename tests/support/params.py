"""Parameters whose first values are always tested, and the others only among the slow tests."""

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Mark these values of a parameter as slow. A tuple is one value for several names."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]
