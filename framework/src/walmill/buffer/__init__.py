"""Rows in memory: immutable snapshots of tables, made by the committer, read by everybody."""
