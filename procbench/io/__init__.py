"""Children: spawn them, speak to them, wait for them."""
