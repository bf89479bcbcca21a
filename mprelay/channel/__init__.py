"""Between supervisor and worker: tickets with sockets, and orders, go down; events come up."""
