"""The tree over the lines, against RFC 6962's own test vectors and definition."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from mprelay.seal.tree import EMPTY_ROOT, Frontier, leaf_of, node_of, root_by_path

# Certificate Transparency's test data (RFC 6962's reference implementation, merkletree/merkle_tree_test.cc).
LEAVES = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    bytes(range(0x50, 0x58)),
    bytes(range(0x60, 0x70)),
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATH_OF_5_IN_7 = [
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]


def root_of(lines):
    """The root by its definition, section 2.1."""
    if not lines:
        return hashlib.sha256().digest()
    if len(lines) == 1:
        return leaf_of(lines[0])
    half = 1 << (len(lines) - 1).bit_length() - 1
    return node_of(root_of(lines[:half]), root_of(lines[half:]))


def path_of(index, lines):
    """An inclusion path by its definition, section 2.1.1."""
    if len(lines) == 1:
        return []
    half = 1 << (len(lines) - 1).bit_length() - 1
    if index < half:
        return [*path_of(index, lines[:half]), root_of(lines[half:])]
    return [*path_of(index - half, lines[half:]), root_of(lines[:half])]


def test_the_reference_roots():
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT == hashlib.sha256().digest()
    for size, (leaf, root) in enumerate(zip(LEAVES, ROOTS, strict=True), 1):
        frontier.append(leaf_of(leaf))
        assert (frontier.size, frontier.root().hex()) == (size, root)


@given(st.lists(st.binary(max_size=3), max_size=70))
def test_roots_are_those_of_the_definition(lines):
    frontier = Frontier()
    for line in lines:
        frontier.append(leaf_of(line))
    assert frontier.root() == root_of(lines)


def test_a_frontier_stays_small():
    """One hash for each bit of its size."""
    frontier = Frontier()
    for _ in range(1000):
        frontier.append(leaf_of(b"x"))
    assert len(frontier._subtrees) == (1000).bit_count()


def test_the_reference_path():
    assert [node.hex() for node in path_of(5, LEAVES[:7])] == PATH_OF_5_IN_7


@given(st.integers(1, 40).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size))))
def test_a_path_leads_to_the_root(place):
    """And nowhere else: not with another index or size, nor with a hash more, less or changed."""
    index, size = place
    lines = [b"%d" % number for number in range(size)]
    leaf, path, root = leaf_of(lines[index]), path_of(index, lines), root_of(lines)
    assert root_by_path(leaf, index, size, path) == root
    for other in range(size):
        if other != index:
            assert root_by_path(leaf, other, size, path) != root
    assert root_by_path(leaf, index, size, [*path, leaf]) is None
    assert root_by_path(leaf, size, size, path) is None
    assert root_by_path(leaf, -1, size, path) is None
    for level, beside in enumerate(path):
        assert root_by_path(leaf, index, size, path[:level]) is None
        for wrong in (leaf, beside[:-1]):
            assert root_by_path(leaf, index, size, [*path[:level], wrong, *path[level + 1 :]]) != root


def test_a_node_is_no_leaf():
    """CVE-2012-2459: an inner node, given as a line, leads nowhere."""
    both = leaf_of(LEAVES[0]) + leaf_of(LEAVES[1])
    assert leaf_of(both) != node_of(leaf_of(LEAVES[0]), leaf_of(LEAVES[1]))


@given(st.lists(st.integers(0, 20), max_size=6))
def test_many_leaves_at_once_are_the_same_as_one_by_one(counts):
    """Whatever the size is when they come."""
    lines = [b"%d" % number for number in range(sum(counts))]
    frontier, size = Frontier(), 0
    for count in counts:
        frontier.extend([leaf_of(line) for line in lines[size : size + count]])
        size += count
        assert frontier.size == size
        assert frontier.root() == root_of(lines[:size])
