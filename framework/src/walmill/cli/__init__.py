"""The command line. `--help` has to answer in 0.3 s, so this package imports click and nothing heavier until a command runs."""
