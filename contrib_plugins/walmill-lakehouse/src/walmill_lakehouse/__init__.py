"""Delta Lake tables of what is in the database."""
