"""From what the user gave to a checked configuration, or to all that is wrong with it.

    argv ───────▶ cli ──────┐
    variables ──▶ layers ───┼─ texts with their sources ─▶ layers.merge ── Given ──▶ validation ─▶ Config, or a
    file ───────▶ toml ─────┘                                  │                                   Problem for
                                                               ▼                                   each wrong one
                                                   effective ─▶ TOML (--check)

    parameters (the table) ─▶ parsers

What only the system can tell comes in as a :class:`~mprelay.config.host.Host`: nothing here touches it.
"""
