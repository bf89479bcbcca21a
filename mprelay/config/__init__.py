"""From what the user gave to a checked configuration, or to all that is wrong with it.

    argv ─▶ cli ── Given: text and source ──▶ validation ─▶ Config, or a Problem for each wrong value
                                                  │
                                 parameters (the table) ─▶ parsers

What only the system can tell comes in as a :class:`~mprelay.config.host.Host`: nothing here touches it.
"""
