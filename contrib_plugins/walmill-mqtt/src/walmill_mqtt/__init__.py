"""A source that stores what an MQTT broker sends, each message once."""
