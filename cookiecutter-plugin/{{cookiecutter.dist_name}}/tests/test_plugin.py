{%- set write = cookiecutter.__write == 'True' -%}
{%- set schedule = cookiecutter.__schedule == 'True' -%}
{%- set request = cookiecutter.__request == 'True' -%}
{%- set service = cookiecutter.__service == 'True' -%}
{%- set snapshot = cookiecutter.__snapshot == 'True' -%}
{%- set wait = cookiecutter.asynchronous == 'yes' -%}
{%- set open = 'asyncio.run(' if wait else '' -%}
{%- set close = ')' if wait else '' -%}
{%- set fake = 'FakeAsyncContext' if wait else 'FakeContext' -%}
{%- set hooks = [] -%}
{%- if request %}{% set hooks = hooks + ['on_request'] %}{% endif -%}
{%- if schedule %}{% set hooks = hooks + ['on_schedule'] %}{% endif -%}
{%- if service %}{% set hooks = hooks + ['on_service'] %}{% endif -%}
{%- if snapshot %}{% set hooks = hooks + ['on_snapshot'] %}{% endif -%}
{%- if write %}{% set hooks = hooks + ['on_write'] %}{% endif -%}
{%- set fakes = [fake] -%}
{%- if request %}{% set fakes = fakes + ['request'] %}{% endif -%}
{%- if snapshot %}{% set fakes = fakes + ['snapshot'] %}{% endif -%}
{%- if schedule %}{% set fakes = fakes + ['tick'] %}{% endif -%}
{%- if write %}{% set fakes = fakes + ['write_batch'] %}{% endif -%}
{%- set taken = 'from ' ~ cookiecutter.package ~ ' import ' ~ (hooks | join(', ')) -%}
{%- set standard = [] -%}
{%- if wait %}{% set standard = standard + ['import asyncio'] %}{% endif -%}
{%- if snapshot %}{% set standard = standard + ['from pathlib import Path'] %}{% endif -%}
"""The hooks, without an engine: `walmill_hookspecs.fakes` stands in for it."""
{% if standard %}
{{ standard | join('\n') }}
{% endif %}
{%- if service %}
import pytest
{%- endif %}
from walmill_hookspecs.fakes import {{ fakes | join(', ') }}

{% if (taken | length) > 120 -%}
from {{ cookiecutter.package }} import (
    {{ hooks | join(',\n    ') }},
)
{%- else -%}
{{ taken }}
{%- endif %}
from {{ cookiecutter.package }}.settings import Settings
{%- if write %}


def test_rows_are_counted_by_table() -> None:
    context = {{ fake }}(settings=Settings())
    batch = write_batch({"room": [{"host": "a", "temp": 20.5, "time": 1}]}, tags={"room": ["host"]})
    {{ open }}on_write(batch, context){{ close }}
    {{ open }}on_write(batch, context){{ close }}
    assert [line.fields["rows"] for line in context.written] == [1, 2]
    assert context.written[0].tags == {"table": "room"}
{%- endif %}
{%- if schedule %}


def test_a_tick_is_written_down() -> None:
    context = {{ fake }}(settings=Settings())
    {{ open }}on_schedule(tick(missed=2), context){{ close }}
    assert [line.fields for line in context.written] == [{"missed": 2}]
{%- endif %}
{%- if request %}


def test_a_request_is_answered() -> None:
    context = {{ fake }}(settings=Settings())
    reply = {{ open }}on_request(request(query={"name": "mill"}), context){{ close }}
    assert reply == {"hello": "mill", "asked": 1}
{%- endif %}
{%- if service %}


def test_a_source_runs_until_it_is_asked_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("{{ cookiecutter.package }}.SECONDS", 0.0)
    context = {{ fake }}(settings=Settings())
    context.on_commit(lambda: setattr(context, "stopping", True))
    {{ open }}on_service(context){{ close }}
    assert [line.fields for line in context.written] == [{"beats": 1}]
    assert context.checkpoints == [None]
{%- endif %}
{%- if snapshot %}


def test_rows_in_files_are_counted(tmp_path: Path) -> None:
    context = {{ fake }}(settings=Settings())
    record = snapshot(tmp_path, {"room": [{"host": "a", "temp": 20.5, "time": 1}]}, tags={"room": ["host"]})
    {{ open }}on_snapshot(record, context){{ close }}
    assert [line.fields for line in context.written] == [{"in_files": 1}]
{%- endif %}
