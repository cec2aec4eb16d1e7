"""The committer, the views that it publishes, and the commits that it makes."""
