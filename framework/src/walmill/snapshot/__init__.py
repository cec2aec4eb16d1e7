"""Snapshots: rows of the buffer as Parquet files, everything else as parts, and the manifest that makes both count."""
