"""Walmill: a processing engine for time-series data."""
