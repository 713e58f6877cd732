"""The laboratory: what host this is, how trials are measured, where runs are kept."""
