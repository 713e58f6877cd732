"""Pure functions from numbers to conclusions; nothing here measures anything."""
