"""Backups: everything at one sequence, in another place, with what earlier backups there have in common stored once."""
