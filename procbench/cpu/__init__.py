"""CPUs: which there are, and which this process may use."""
