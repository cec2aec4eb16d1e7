"""From what clients and plugins send to columns that are checked against the schema: pure functions, no disk, no clock."""
