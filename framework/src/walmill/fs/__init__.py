"""Files: the small protocol through which the log sees them, and its implementations."""
