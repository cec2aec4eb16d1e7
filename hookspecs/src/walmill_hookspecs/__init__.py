"""The contract between Walmill and its plugins: the only package of Walmill that a plugin imports.

from walmill_hookspecs import AsyncContext, Line, WriteBatch, hookimpl

@hookimpl
async def on_write(batch: WriteBatch, ctx: AsyncContext[dict[str, str]]) -> None:
    for name, table in batch.tables.items():
        ctx.write(Line("seen", tags={"table": name}, fields={"rows": table.num_rows}))
"""

from __future__ import annotations

from typing import Final

from walmill_hookspecs._markers import PROJECT, ContractDeprecationWarning, hookimpl, hookspec
from walmill_hookspecs.body import AsyncBody, Body
from walmill_hookspecs.context import AsyncContext, BaseContext, Cache, Context
from walmill_hookspecs.errors import (
    BadSettings,
    ContextError,
    DisableTrigger,
    HTTPError,
    LimitExceeded,
    PluginSignal,
    QueryError,
    RetryLater,
    RunCancelled,
    SkipBatch,
    TableNotFound,
    WriteError,
)
from walmill_hookspecs.settings import ColumnName, Duration, Secret, TableName, setting, settings
from walmill_hookspecs.types import (
    Line,
    MultiMapping,
    Reply,
    Request,
    Response,
    Run,
    RunRecord,
    Series,
    SnapshotFile,
    SnapshotRecord,
    SnapshotTable,
    SqlFunction,
    SuggestedTrigger,
    TableBatch,
    Tick,
    TriggerInfo,
    UInt,
    WriteBatch,
    series_key,
)

API_VERSION: Final = "0.1"
"""Version of the contract. Below 1.0 a minor version may change it; CHANGELOG.md says how."""

__all__ = [
    "API_VERSION",
    "PROJECT",
    "AsyncBody",
    "AsyncContext",
    "BadSettings",
    "BaseContext",
    "Body",
    "Cache",
    "ColumnName",
    "Context",
    "ContextError",
    "ContractDeprecationWarning",
    "DisableTrigger",
    "Duration",
    "HTTPError",
    "LimitExceeded",
    "Line",
    "MultiMapping",
    "PluginSignal",
    "QueryError",
    "Reply",
    "Request",
    "Response",
    "RetryLater",
    "Run",
    "RunCancelled",
    "RunRecord",
    "Secret",
    "Series",
    "SkipBatch",
    "SnapshotFile",
    "SnapshotRecord",
    "SnapshotTable",
    "SqlFunction",
    "SuggestedTrigger",
    "TableBatch",
    "TableName",
    "TableNotFound",
    "Tick",
    "TriggerInfo",
    "UInt",
    "WriteBatch",
    "WriteError",
    "hookimpl",
    "hookspec",
    "series_key",
    "setting",
    "settings",
]
