"""Where hooks run. `inline`: in this process."""
