"""The durable state of plugins: values, operations, and what a run sees of it."""
