"""`walmill doctor`: what keeps a server from running here, and what to do about it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
import click

from walmill.cli.checks import Check, exposed, gather
from walmill.cli.options import shown_format_option
from walmill.cli.output import cell, say, table
from walmill.cli.serve import settings_from, settings_options
from walmill.errors import InvalidRequest


@click.command()
@shown_format_option
@settings_options
def doctor(*, output_format: str, config: Path | None, **flags: Any) -> int:
    """Check that a server with these settings can run here. Exits with 1 if something fails."""
    checks: list[Check] = []
    try:
        settings = settings_from(config, flags)
    except InvalidRequest as error:
        checks.append(Check("settings", "failed", error.message, "mend the settings and try again"))
    else:
        checks.append(Check("settings", "ok", str(settings.config_file or "no settings file")))
        checks += gather(settings, os.environ)
        warning = exposed(settings)
        if warning is not None:
            checks.append(warning)
    if output_format == "json":
        click.echo(json.dumps([attrs.asdict(check) for check in checks], ensure_ascii=False, indent=2))
    else:
        rows = [[check.name, check.status, cell(check.result), cell(check.remedy)] for check in checks]
        say(table(["check", "status", "result", "remedy"], rows))
    return 1 if any(check.status == "failed" for check in checks) else 0
