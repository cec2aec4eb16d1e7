"""The context of a run in this process."""
