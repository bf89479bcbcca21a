"""The arguments of the program are what was typed, whatever the locale is."""

import os

import pytest

from mprelay.app import _as_typed


@pytest.mark.posix("arguments that are bytes")
def test_bytes_are_read_as_utf8():
    """Python has decoded them by a locale that may know only ASCII."""
    assert _as_typed(["Ω🙂", "\udcc3\udca9", "\udcff"]) == ["Ω🙂", "é", "\udcff"]


def test_text_stays_as_it_is(monkeypatch):
    """Windows may have typed lone surrogates, and its encoding of file names may be one of 256 characters."""
    monkeypatch.setattr(os, "supports_bytes_environ", False)
    monkeypatch.setattr(os, "fsencode", None)
    assert _as_typed(["Ω🙂", "x\ud800y", "\udcff"]) == ["Ω🙂", "x\ud800y", "\udcff"]
