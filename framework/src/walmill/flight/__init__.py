"""Arrow Flight: what InfluxDB 3's clients query by."""
