"""Takes away what the answers do not call for."""

from pathlib import Path

if {{ cookiecutter.licence | string | tojson }} == "none":
    Path("LICENSE").unlink()
