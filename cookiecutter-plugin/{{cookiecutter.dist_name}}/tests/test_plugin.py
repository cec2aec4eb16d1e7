{%- set write = cookiecutter.__write == 'True' -%}
{%- set schedule = cookiecutter.__schedule == 'True' -%}
{%- set request = cookiecutter.__request == 'True' -%}
{%- set hooks = [] -%}
{%- if request %}{% set hooks = hooks + ['on_request'] %}{% endif -%}
{%- if schedule %}{% set hooks = hooks + ['on_schedule'] %}{% endif -%}
{%- if write %}{% set hooks = hooks + ['on_write'] %}{% endif -%}
{%- set fakes = ['FakeAsyncContext'] -%}
{%- if request %}{% set fakes = fakes + ['request'] %}{% endif -%}
{%- if schedule %}{% set fakes = fakes + ['tick'] %}{% endif -%}
{%- if write %}{% set fakes = fakes + ['write_batch'] %}{% endif -%}
"""The hooks, without an engine: `walmill_hookspecs.fakes` stands in for it."""

import asyncio

from walmill_hookspecs.fakes import {{ fakes | join(', ') }}

from {{ cookiecutter.package }} import {{ hooks | join(', ') }}
from {{ cookiecutter.package }}.settings import Settings
{%- if write %}


def test_rows_are_counted_by_table() -> None:
    context = FakeAsyncContext(settings=Settings())
    batch = write_batch({"room": [{"host": "a", "temp": 20.5, "time": 1}]}, tags={"room": ["host"]})
    asyncio.run(on_write(batch, context))
    asyncio.run(on_write(batch, context))
    assert [line.fields["rows"] for line in context.written] == [1, 2]
    assert context.written[0].tags == {"table": "room"}
{%- endif %}
{%- if schedule %}


def test_a_tick_is_written_down() -> None:
    context = FakeAsyncContext(settings=Settings())
    asyncio.run(on_schedule(tick(missed=2), context))
    assert [line.fields for line in context.written] == [{"missed": 2}]
{%- endif %}
{%- if request %}


def test_a_request_is_answered() -> None:
    context = FakeAsyncContext(settings=Settings())
    reply = asyncio.run(on_request(request(query={"name": "mill"}), context))
    assert reply == {"hello": "mill", "asked": 1}
{%- endif %}
