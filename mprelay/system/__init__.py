"""The operating system: one module for each thing that a platform may lack."""
