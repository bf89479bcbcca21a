"""mprelayctl: sees and steers a running relay over its control socket. Nothing of it runs in the relay."""
