"""The supervisor process: it accepts and admits clients, hands them over to workers, and writes all records."""
