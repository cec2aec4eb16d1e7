{%- set write = cookiecutter.__write == 'True' -%}
{%- set schedule = cookiecutter.__schedule == 'True' -%}
{%- set request = cookiecutter.__request == 'True' -%}
{%- set service = cookiecutter.__service == 'True' -%}
{%- set snapshot = cookiecutter.__snapshot == 'True' -%}
{%- set wait = cookiecutter.asynchronous == 'yes' -%}
{%- set def = 'async def' if wait else 'def' -%}
{%- set context = 'AsyncContext' if wait else 'Context' -%}
{%- set names = [context, 'Line'] -%}
{%- if request %}{% set names = names + ['Reply', 'Request'] %}{% endif -%}
{%- if snapshot %}{% set names = names + ['SnapshotRecord'] %}{% endif -%}
{%- if schedule %}{% set names = names + ['Tick'] %}{% endif -%}
{%- if write %}{% set names = names + ['WriteBatch'] %}{% endif -%}
{%- set names = names + ['hookimpl'] -%}
"""{{ cookiecutter.description | replace('\\', '\\\\') | replace('"', "'") }}"""
{% if service %}
import {{ 'asyncio' if wait else 'time' }}
{% endif %}
from walmill_hookspecs import {{ names | join(', ') }}

from {{ cookiecutter.package }}.settings import Settings
{%- if service %}

SECONDS = 1.0
{%- endif %}


@hookimpl
def register_settings() -> type:
    """Which arguments a trigger takes."""
    return Settings
{%- if write %}


@hookimpl
{{ def }} on_write(batch: WriteBatch, ctx: {{ context }}[Settings]) -> None:
    """New rows are durable: count them, by table. The rows written here and the count are one commit."""
    for name, table in batch.tables.items():
        if name == ctx.settings.target:
            continue
        total = ctx.cache.incr(f"rows of {name}", table.num_rows)
        ctx.write(Line(ctx.settings.target, tags={"table": name}, fields={"rows": total}))
{%- endif %}
{%- if schedule %}


@hookimpl
{{ def }} on_schedule(tick: Tick, ctx: {{ context }}[Settings]) -> None:
    """A schedule is due: write down that it was."""
    ctx.log.info("due at %s, %s missed before", tick.scheduled_for, tick.missed)
    ctx.write(Line(ctx.settings.target, {"table": "tick"}, {"missed": tick.missed}, tick.scheduled_for))
{%- endif %}
{%- if request %}


@hookimpl
{{ def }} on_request(request: Request, ctx: {{ context }}[Settings]) -> Reply:
    """An HTTP request came: answer it, and count it."""
    asked = ctx.cache.incr("requests")
    ctx.write(Line(ctx.settings.target, tags={"table": "request"}, fields={"asked": asked}))
    return {"hello": request.query_params.get("name", "world"), "asked": asked}
{%- endif %}
{%- if service %}


@hookimpl
{{ def }} on_service(ctx: {{ context }}[Settings]) -> None:
    """A source: this one says each second that it is there. A real one writes what comes from elsewhere."""
    while not ctx.stopping:
        beats = ctx.cache.incr("beats")
        ctx.write(Line(ctx.settings.target, tags={"table": "beat"}, fields={"beats": beats}))
        {{ 'await ' if wait else '' }}ctx.checkpoint()
        {{ 'await asyncio' if wait else 'time' }}.sleep(SECONDS)
{%- endif %}
{%- if snapshot %}


@hookimpl
{{ def }} on_snapshot(record: SnapshotRecord, ctx: {{ context }}[Settings]) -> None:
    """Rows are in files: write down how many. A real one takes the files to where others look."""
    for table in record.tables:
        if table.name == ctx.settings.target:
            continue
        rows = sum(one.rows for one in table.files)
        ctx.write(Line(ctx.settings.target, tags={"table": table.name}, fields={"in_files": rows}))
{%- endif %}
