"""Records for Google Cloud Logging: ``--log-format gcp``. JSON, with the fields that its agents look for.

Rules:

1. All fields stay as they are, but `labels` becomes the labels of the log entry.
2. `insertId` makes an entry unique, and orders entries of the same time. It is compared as text, so `seq` has
   zeros before it.
3. The entries of a session are one operation.
"""

from collections.abc import Mapping
from typing import Any, Final

from mprelay.records.about import PRODUCT, keyed

_SPECIAL: Final = "logging.googleapis.com"
_DIGITS: Final = 19  # of the largest seq


def shape(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the special fields of Cloud Logging."""
    relay_id, event = record["relay_id"], record["event"]
    shaped = {
        "severity": record["level"].upper(),
        "time": record["timestamp"],
        f"{_SPECIAL}/insertId": f"{relay_id}:{record['seq']:0{_DIGITS}d}",
        **record,
    }
    if "session" in record:
        operation: dict[str, Any] = {"id": f"{relay_id}:{record['session']}", "producer": PRODUCT}
        if event in {"connection.accepted", "session.closed"}:
            operation["first" if event == "connection.accepted" else "last"] = True
        shaped[f"{_SPECIAL}/operation"] = operation
    if "labels" in record:
        shaped[f"{_SPECIAL}/labels"] = keyed(shaped.pop("labels"))
    return shaped
