"""Object stores: whole objects by path, in a directory, in memory, or in a bucket."""
