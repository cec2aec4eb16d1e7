"""The write-ahead log: frames in segments. `FORMAT.md` beside this file gives the bytes."""
