"""What the data is: tables, columns, types, and their Arrow form."""
