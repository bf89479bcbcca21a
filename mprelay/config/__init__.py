"""From the command line to a checked configuration, or to all that is wrong with it."""
