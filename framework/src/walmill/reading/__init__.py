"""Bodies of line protocol that are read in a process of their own, beside the engine's."""
