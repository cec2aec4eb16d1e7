"""Plugins with an environment of their own: what they need is installed there, and their workers run its interpreter."""
