"""A table as a query reads it: its rows in memory, and the files with the rows before them."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from walmill.buffer.table import TableBuffer
from walmill.errors import Internal
from walmill.model.files import DataFile
from walmill.model.schema import TableSchema


@frozen(eq=False)
class Located:
    """A data file on this machine.

    Attributes:
        path: Where it is.
        pin: As long as somebody holds it, the file stays.
        checked: Whether its bytes were compared with its checksum since they were written there.
    """

    path: str
    pin: object = None
    checked: bool = False


Locate = Callable[[DataFile], Located]
"""Gives a file on this machine, and fetches it first if need be. Any thread may call it, once per query and file.

What lies there must stay as long as the view from which the query got the table, or as long as the pin. It raises
`DataCorruption` if the store has no such file, and `Unavailable` if the store cannot be asked.
"""


def no_store(file: DataFile) -> Located:
    """What locates files where there is no store.

    Raises:
        Internal: Always.
    """
    raise Internal(f"the file {file.path!r} belongs to a table, and there is no object store to read it from")


@frozen(eq=False)
class TableSource:
    """All rows of one table at one moment. Immutable.

    Attributes:
        buffer: The rows that are in no file. Its `overlaps` say where one of them may repeat another, or a row of a file.
        files: The files in the order of their sequences; of two rows with the same identity that of the later file is newer,
            and one of the buffer is newer than all of them.
        locate: Gives the local path of a file.
        cut_off: Rows with an earlier time are expired, ns, and not to be seen; None if none is.
    """

    buffer: TableBuffer
    files: tuple[DataFile, ...] = ()
    locate: Locate = no_store
    cut_off: int | None = None

    @property
    def schema(self) -> TableSchema:
        """The columns of the table; files may lack some, which are null there."""
        return self.buffer.schema
