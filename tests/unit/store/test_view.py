"""Files in a view: which table has them, and when they go."""

from __future__ import annotations

import pytest
from attrs import evolve

from walmill.buffer.source import Located
from walmill.errors import Internal, NotFound
from walmill.model.files import DataFile
from walmill.store.commit import Commit
from walmill.store.view import View

FILES = tuple(
    DataFile(f"tables/d-1/cpu-2/{number}", 2, 1, 10, number, number, number, number, 0) for number in range(2)
)


def commit(*definitions: dict[str, object]) -> Commit:
    return Commit(sequence=1, time=1, definitions=definitions)


def database(number: int, name: str, table: str) -> list[dict[str, object]]:
    return [
        {"op": "create_database", "id": number, "name": name},
        {
            "op": "create_table",
            "id": number + 1,
            "db": number,
            "name": table,
            "tags": ["host"],
            "fields": {"v": "int64"},
        },
    ]


@pytest.fixture
def view() -> View:
    """Table 2 with two files, and table 4 of another database with one; no rows in memory."""
    made = View().decide(commit(*database(1, "d", "cpu"), *database(3, "e", "mem")))
    return evolve(made, files={2: FILES, 4: FILES[:1]})


def test_a_table_has_its_files_and_the_columns_of_the_catalog(view: View) -> None:
    source = view.tables_of("d", lambda file: Located(f"/store/{file.path}"))["cpu"]
    assert source.files == FILES
    assert source.locate(FILES[1]).path == "/store/tables/d-1/cpu-2/1"
    assert source.buffer.num_rows == 0
    assert source.schema.column_names() == ["host", "v", "time"]
    with pytest.raises(Internal, match="'tables/d-1/cpu-2/0' belongs to a table, and there is no object store"):
        view.tables_of("d")["cpu"].locate(FILES[0])


def test_files_are_not_shown_after_their_database_was_dropped_and_stay_in_older_views(view: View) -> None:
    dropped = commit({"op": "drop_database", "id": 1})
    later = view.decide(dropped).store_rows([dropped])
    with pytest.raises(NotFound):
        later.tables_of("d")
    assert later.tables_of("e")["mem"].files == FILES[:1]
    assert view.tables_of("d")["cpu"].files == FILES
