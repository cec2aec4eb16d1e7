"""The settings of a server: what there is, and where each value came from."""
