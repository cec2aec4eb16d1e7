"""What a trigger waits for: specs and what they match."""
