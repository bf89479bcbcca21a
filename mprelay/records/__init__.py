"""Records: what each says, how it is written, and its way to the process that owns stdout."""
