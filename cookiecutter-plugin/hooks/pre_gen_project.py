"""Refuses answers from which no package can be made."""

import keyword
import re
import sys

NAME = """{{ cookiecutter.name }}"""
DIST = """{{ cookiecutter.dist_name }}"""
PACKAGE = """{{ cookiecutter.package }}"""
HOOKS = """{{ cookiecutter.hooks }}"""

problems = []
if not re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", NAME):
    problems.append(f"the name {NAME!r} must be lower-case letters and digits, with single -, _ or . between them")
if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", DIST):
    problems.append(f"the distribution {DIST!r} must be letters, digits, '.', '_' and '-'")
if not PACKAGE.isidentifier() or keyword.iskeyword(PACKAGE):
    problems.append(f"the package {PACKAGE!r} is not a Python name")
wanted = [hook.strip() for hook in HOOKS.split(",") if hook.strip()]
if not wanted or any(hook not in ("write", "schedule", "request") for hook in wanted):
    problems.append(f"the hooks {HOOKS!r} are not of write, schedule, request; give one or several, separated by commas")
if problems:
    sys.exit("; ".join(problems))
