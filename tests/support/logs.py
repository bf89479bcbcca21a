"""Logs as a relay would write them, without one: for those who read logs."""

from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]


class Writer:
    """Writes the records of a run as a relay would."""

    def __init__(self, relay_id: str = "r1", *, full: bool = True) -> None:
        self.records: list[Record] = []
        self.relay_id = relay_id
        self.at = datetime(2026, 11, 26, 12, tzinfo=UTC)
        self.full = full
        self.refused = dict.fromkeys(("rejected", "limited", "abandoned", "proxy_invalid", "exhausted"), 0)
        self.closed: dict[str, int] = {}
        self.bytes = [0, 0]
        self.serial = 0

    def write(self, event: str, level: str = "info", **fields: Any) -> None:
        """Write a record."""
        self.at += timedelta(milliseconds=7)
        common = {
            "timestamp": self.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": level,
            "event": event,
            "message": f"About {event}.",
            "seq": len(self.records) + 1,
            "relay_id": self.relay_id,
            "labels": {"ticket": "CHG-7"},
        }
        self.records.append(common | fields)

    def opened(self, **fields: Any) -> None:
        """Open the door."""
        known: Record = {
            "listen_ip": "*",
            "listen_port": 8080,
            "target_host": "192.0.2.10",
            "target_port": 80,
            "acl": "ANY",
            "log_detail": "full" if self.full else "session",
            "expires_at": None,
            "opened_by": "alice",
            "host": "gate",
        }
        self.write("relay.active", **known | fields)

    def refuse(self, ip: str, event: str = "connection.rejected", kind: str = "rejected", **fields: Any) -> None:
        """Refuse a connection."""
        if self.full:
            self.write("connection.attempt", client_ip=ip, client_port=1)
        self.write(event, "warning", client_ip=ip, client_port=1, **fields)
        self.refused[kind] += 1

    def refuse_more(self, ip: str | None, count: int, kind: str = "rejected") -> None:
        """Sum up refusals."""
        when = self.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        fields: Record = {"client_ip": ip, "count": count, "refused": kind, "first_at": when, "last_at": when}
        self.write("connection.refused_more", "warning", **fields)
        self.refused[kind] += count

    def admit(self, ip: str) -> Record:
        """Admit a session; return who it is."""
        self.serial += 1
        who: Record = {"client_ip": ip, "client_port": 2, "session": self.serial, "target_ip": "192.0.2.10"}
        if self.full:
            self.write("connection.attempt", client_ip=ip, client_port=2)
            self.write("connection.accepted", **who)
            self.write("session.allocated", **who)
        return who

    def close(
        self,
        who: Record,
        reason: str = "drained",
        *,
        moved: tuple[int, int] = (3, 4),
        level: str = "info",
        error: str | None = None,
    ) -> None:
        """End a session, after so many bytes from the client and from the target."""
        """End a session, after so many bytes from the client and from the target."""
        self.write(
            "session.closed",
            level,
            **who,
            reason=reason,
            error=error,
            error_from=error and "client",
            bytes_from_client=moved[0],
            bytes_from_target=moved[1],
            duration_ms=5.5,
            acl="ANY",
        )
        self.closed[reason] = self.closed.get(reason, 0) + 1
        self.bytes = [self.bytes[0] + moved[0], self.bytes[1] + moved[1]]

    def stop(self, reason: str = "expired", **fields: Any) -> None:
        """Write the last record."""
        known: Record = {
            "reason": reason,
            "uptime_s": 5.0,
            "attempts": sum(self.refused.values()) + self.serial,
            **self.refused,
            "admitted": self.serial,
            "bytes_from_client": self.bytes[0],
            "bytes_from_target": self.bytes[1],
            "closed": self.closed,
        }
        self.write("relay.stopped", **known | fields)


def usual_run(**options: Any) -> Writer:
    """A run of nine connections: two of them overlap, all else is one after the other."""
    run = Writer(**options)
    run.write("worker.started", worker=1)
    run.opened()
    first, second = run.admit("10.0.0.1"), run.admit("10.0.0.2")
    run.refuse("10.9.0.1", acl="!10.9.0.0/16")
    run.close(second, "target_read_closed", moved=(10, 2**53 + 1))
    run.close(first, "worker_lost", level="error", error="ECONNRESET")
    run.refuse_more("10.9.0.1", 3)
    run.refuse_more(None, 2, "exhausted")
    run.close(run.admit("10.0.0.1"), "killed")
    run.write("relay.stats", active=0, admitted=3)
    run.stop()
    return run
