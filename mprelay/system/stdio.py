"""The channels to the outlet, the process that has the standard streams in its hands.

    supervisor: RecordSender ── records ──▶ RecordReceiver :outlet    (and READY, WRITTEN back)
    every process: voice ─── complaints ──▶ ComplaintReader :outlet

Rules of each variant:

1. Nothing that the supervisor does here waits.
2. Records that were sent arrive before the end, even if the supervisor is killed: all that the channel had room
   for.
3. The voice is a descriptor that can take the places 0 to 2 of every process. A write to it never waits; what
   finds no room is lost.
4. :class:`Handed` is a descriptor for a process that is being started, where it arrives as a plain number.
"""

import sys

if sys.platform == "win32":
    from mprelay.system.stdio_windows import (
        ComplaintEnd,
        ComplaintReader,
        Handed,
        RecordEnd,
        RecordReceiver,
        RecordSender,
        complaint_channel,
        record_channel,
        take_over,
    )
else:
    from mprelay.system.stdio_posix import (
        ComplaintEnd,
        ComplaintReader,
        Handed,
        RecordEnd,
        RecordReceiver,
        RecordSender,
        complaint_channel,
        record_channel,
        take_over,
    )

__all__ = [
    "ComplaintEnd",
    "ComplaintReader",
    "Handed",
    "RecordEnd",
    "RecordReceiver",
    "RecordSender",
    "complaint_channel",
    "record_channel",
    "take_over",
]
