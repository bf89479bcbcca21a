"""What makes a log provable: the tree over its lines, the notes that sign it, and the keys. See docs/seal.md.

The relay seals with it, mprelayctl verifies with it. Nothing here reads a log or writes one.
"""
