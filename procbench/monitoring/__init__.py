"""What the machine is doing, read from kernel counters."""
