"""Any bytes from outside, as hypothesis makes them up. ``scripts/fuzz`` looks for worse ones by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import inputs


@pytest.mark.parametrize(("way", "seed"), [(way, seed) for way, seeds in inputs.SEEDS.items() for seed in seeds])
def test_what_a_fuzzer_begins_with(way, seed):
    """The seeds themselves, and each cut off anywhere."""
    for end in range(len(seed) + 1):
        inputs.WAYS[way](seed[:end])


def mangled(way):
    """Bytes of all kinds, and seeds with bytes in the midst of them."""

    def mangle(parts):
        seed, at, cut, new = parts
        at %= len(seed) + 1
        return seed[:at] + new + seed[at + cut :]

    made = st.tuples(st.sampled_from(inputs.SEEDS[way]), st.integers(0, 999), st.integers(0, 9), st.binary())
    return st.one_of(st.binary(max_size=2000), made.map(mangle))


@pytest.mark.parametrize("way", inputs.WAYS)
@given(data=st.data())
def test_no_bytes_break_it(way, data):
    """Refused, or taken for what they are."""
    inputs.WAYS[way](data.draw(mangled(way)))
