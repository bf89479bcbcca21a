"""Between supervisor and worker: tickets with sockets go down, events come up."""
