"""Memory that children's bytes pass through."""
