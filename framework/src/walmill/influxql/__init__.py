"""InfluxQL, as far as it reads: statements by a grammar, translated to SQL, answered in the form of InfluxDB 1."""
