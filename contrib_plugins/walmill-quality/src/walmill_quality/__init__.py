"""Checks of rows after they were written, with findings in a table."""
