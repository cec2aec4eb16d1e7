"""`python -m walmill` is the command `walmill` of this interpreter."""

from walmill.cli.main import main

if __name__ == "__main__":
    main()
