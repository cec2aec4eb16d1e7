"""Refuses answers from which no package can be made, all problems at once."""

import keyword
import re
import sys

NAME = {{ cookiecutter.name | string | tojson }}
DIST = {{ cookiecutter.dist_name | string | tojson }}
PACKAGE = {{ cookiecutter.package | string | tojson }}
DESCRIPTION = {{ cookiecutter.description | string | tojson }}
AUTHOR = {{ cookiecutter.author | string | tojson }}
HOOKS = {{ cookiecutter.hooks | string | tojson }}
PYTHON = {{ cookiecutter.python | string | tojson }}

problems = []
if not re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", NAME):
    problems.append(f"the name {NAME!r} must be lower-case letters and digits, with single -, _ or . between them")
if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", DIST):
    problems.append(f"the distribution {DIST!r} must be letters, digits, '.', '_' and '-'")
if not PACKAGE.isidentifier() or keyword.iskeyword(PACKAGE):
    problems.append(f"the package {PACKAGE!r} is not a Python name")
if PACKAGE in sys.stdlib_module_names or PACKAGE in ("walmill", "walmill_hookspecs"):
    problems.append(f"the package {PACKAGE!r} would hide another of that name; take another one")
for what, text in (("description", DESCRIPTION), ("author", AUTHOR)):
    if not text.isprintable() or not text.strip() or len(text) > 100:
        problems.append(f"the {what} {text!r} must be one line of 1 to 100 characters")
wanted = [hook.strip() for hook in HOOKS.split(",") if hook.strip()]
if not wanted or any(hook not in ("write", "schedule", "request", "service", "snapshot") for hook in wanted):
    problems.append(
        f"the hooks {HOOKS!r} are not of write, schedule, request, service, snapshot; give one or several, separated by commas"
    )
if not re.fullmatch(r"3\.(1[1-9]|[2-9][0-9])", PYTHON):
    problems.append(f"the Python {PYTHON!r} must be 3.11 or a later 3.x, written as 3.12")
if problems:
    sys.exit("; ".join(problems))
