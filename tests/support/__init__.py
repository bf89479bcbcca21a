"""Tools that the tests share."""

import pytest

# A failure in them shows the values. Else pytest shows those of its own test files only.
pytest.register_assert_rewrite(
    *(f"support.{name}" for name in ("inputs", "judge", "kept", "launching", "peers", "relay", "waiting"))
)
