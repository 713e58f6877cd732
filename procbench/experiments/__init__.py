"""One module per system, under the same word as its notebook; each has ``run(...)``."""
