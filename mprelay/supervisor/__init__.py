"""The supervisor process: it accepts, admits, hands over, and answers for everything."""
