"""The Merkle tree over the lines of a log (RFC 6962, section 2.1). Pure.

    leaf of a line:        SHA-256(0x00 ‖ line without its newline)
    node of two subtrees:  SHA-256(0x01 ‖ left ‖ right)

A tree of n leaves splits after the largest power of two below n. So it is a row of complete subtrees, from the
largest to the smallest, one for each 1 in the binary form of n: that row is all that has to be kept.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

HASH_SIZE: Final = 32
"""Bytes of a hash."""

EMPTY_ROOT: Final = sha256().digest()
"""The root of a tree without leaves."""


def leaf_of(line: bytes) -> bytes:
    """Return the hash of a line, given without its newline."""
    return sha256(b"\0" + line).digest()


def node_of(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over two subtrees."""
    return sha256(b"\1" + left + right).digest()


class Frontier:
    """A tree that grows, of which only the complete subtrees are kept: one hash for each bit of its size."""

    def __init__(self) -> None:
        self.size = 0
        """How many leaves it has."""
        self._subtrees: list[bytes] = []  # from the largest to the smallest

    def append(self, leaf: bytes) -> None:
        """Add a leaf (:func:`leaf_of`)."""
        subtrees = self._subtrees
        size = self.size
        while size & 1:
            leaf = node_of(subtrees.pop(), leaf)
            size >>= 1
        subtrees.append(leaf)
        self.size += 1

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add many leaves: level by level, which takes less time than one by one."""
        nodes = [*leaves]
        smaller: list[bytes] = []  # subtrees that are left over, from the smallest to the largest
        size = self.size
        self.size += len(nodes)
        while nodes:
            if size & 1:
                nodes.insert(0, self._subtrees.pop())
            if len(nodes) & 1:
                smaller.append(nodes.pop())
            nodes = [
                sha256(b"\1" + left + right).digest() for left, right in zip(nodes[::2], nodes[1::2], strict=True)
            ]
            size >>= 1
        self._subtrees += reversed(smaller)

    def root(self) -> bytes:
        """Return the root of the tree as it is."""
        if not self._subtrees:
            return EMPTY_ROOT
        *others, root = self._subtrees
        for subtree in reversed(others):
            root = node_of(subtree, root)
        return root


def root_by_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that an inclusion proof leads to (RFC 9162, section 2.1.3.2).

    Args:
        leaf: The hash of the line.
        index: The place of the line in the tree, from 0.
        size: How many leaves the tree has.
        path: The hashes beside the way from the leaf to the root.

    Returns:
        The root. None: no tree of this size has such a path, or a hash in it is none.

    """
    if not 0 <= index < size or any(len(beside) != HASH_SIZE for beside in path):
        return None
    place, last, root = index, size - 1, leaf
    for beside in path:
        if not last:
            return None
        if place & 1 or place == last:
            root = node_of(beside, root)
            while place and not place & 1:
                place >>= 1
                last >>= 1
        else:
            root = node_of(root, beside)
        place >>= 1
        last >>= 1
    return None if last else root
