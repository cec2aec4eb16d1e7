"""Alerts: thresholds with hysteresis, a deadman switch, delivery to a webhook."""
