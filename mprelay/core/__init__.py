"""The rules. They are pure: no socket, no clock, no process. Tests cover each module completely."""
