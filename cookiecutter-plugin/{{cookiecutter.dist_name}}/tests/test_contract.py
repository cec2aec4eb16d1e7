"""What every user of a plugin would expect, tried on a real engine."""

from walmill.testing.suite import plugin_suite

TestContract = plugin_suite("{{ cookiecutter.package }}")
