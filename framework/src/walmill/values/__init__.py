"""Last-value and distinct-value caches: what they hold, how they are kept current, how they are defined."""
