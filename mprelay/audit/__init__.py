"""Reads logs that were written before: verifies and proves them. A part of mprelayctl, without any relay.

    files ── lines ──▶ pieces: blocks of lines, and troubles with the files
                         │
                         ├─▶ verify: one state machine for each run ──▶ verdict
                         └─▶ prove: the lines of one session, and the hashes beside them ──▶ a proof

Nothing here trusts a log. A file can be of any size, and hold anything.
"""
