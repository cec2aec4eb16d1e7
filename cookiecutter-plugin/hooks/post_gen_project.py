"""Takes away what the answers do not call for."""

from pathlib import Path

if {{ cookiecutter.licence | string | tojson }} == "none":
    Path("LICENSE").unlink()
Path(".copier-answers.yml").unlink()  # which copier needs to update what it made
