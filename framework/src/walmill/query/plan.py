"""A planned query, and the tables that are made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
from attrs import frozen

if TYPE_CHECKING:
    from datafusion import DataFrame, RecordBatchStream, SessionContext

    from walmill.query.brake import Brake
    from walmill.query.opened import OpenFiles
    from walmill.query.provider import ExtraSchema, QuerySchema


@frozen
class Made:
    """A table that is made when a query names it.

    Attributes:
        schema: Gives its columns, without making it.
        make: Makes it.
        find: Gives rows among which are all that have one of some texts in each of some columns; None if that is not known.
    """

    schema: Callable[[], pa.Schema]
    make: Callable[[], pa.Table]
    find: Callable[[Mapping[str, frozenset[str]]], pa.Table | None] = lambda wanted: None


GIVEN_SCHEMA, GIVEN_TABLE = "given", "measurement"
GIVEN = f"{GIVEN_SCHEMA}.{GIVEN_TABLE}"
"""What SQL calls rows that whoever asks brings along."""

Extra = Mapping[str, Mapping[str, Made]]
"""Further schemas: for each its tables."""


@frozen
class Plan:
    """A planned query and all that has to live as long as it runs.

    Attributes:
        context: The session.
        schema: Its tables.
        extra: Those of further schemas.
        frame: The plan.
        files: Those that it reads.
        told: What is said of them, if that was asked.
        num_files: So many files are read.
        rows: So many rows at most.
        brake: What stops its joins.
        quick: Whether it is read by whoever asks, since it takes milliseconds.
        kind: As what its session is given back, for another query; None if it is not.
    """

    context: SessionContext
    schema: QuerySchema
    extra: Mapping[str, ExtraSchema]
    frame: DataFrame
    files: OpenFiles | None = None
    told: str | None = None
    num_files: int = 0
    rows: int = 0
    brake: Brake | None = None
    quick: bool = False
    kind: tuple[int, int] | None = None

    @property
    def columns(self) -> pa.Schema:
        """The columns of the answer."""
        return self.frame.schema()

    def start(self) -> RecordBatchStream:
        """The running query.

        Raises:
            DataCorruption: If a file has gone since it was planned.
        """
        stream = self.frame.execute_stream()
        if self.files is not None:
            # the planner lists the files only now, and leaves out what is not there
            self.files.check()
        return stream

    def close(self) -> None:
        """Removes what was made for the time of the query, and ends what it still does."""
        if self.brake is not None:
            self.brake.pull()
        if self.files is not None:
            self.files.folder.close()

    def last(self) -> list[pa.RecordBatch]:
        """What comes behind the rows of the plan: how tables were read, if that was asked."""
        if self.told is None:
            return []
        return [pa.RecordBatch.from_pylist([{"plan_type": "files", "plan": self.told}], schema=self.columns)]


@frozen
class Ready:
    """A query whose answer is there already, without a plan."""

    batches: list[pa.RecordBatch]
    columns: pa.Schema
    num_files: int = 0
    quick: bool = True

    def start(self) -> Iterator[pa.RecordBatch]:
        """The answer."""
        return iter(self.batches)

    def close(self) -> None:
        """Nothing is to be removed."""

    def last(self) -> list[pa.RecordBatch]:
        """Nothing comes behind it."""
        return []
