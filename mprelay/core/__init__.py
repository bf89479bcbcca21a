"""The rules, pure: no socket, no clock, no process. Each part is tested completely."""
