"""Rows and requests become messages: to webhooks, chat rooms and by mail."""
