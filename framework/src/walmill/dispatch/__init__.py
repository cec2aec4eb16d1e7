"""Who runs when: the decisions, and the loop that carries them out."""
