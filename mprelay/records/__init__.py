"""Records: their catalogue, how they are written, and their way to the process that owns stdout."""
