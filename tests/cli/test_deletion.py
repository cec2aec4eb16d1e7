"""Tables and databases by command: how long rows are kept, deleted and restored."""

from __future__ import annotations

import json

import pytest
from tests.cli.conftest import Command


def test_a_table_by_command(local: Command) -> None:
    where = ("--database", "del1")
    made = local(
        "create", "table", *where, "--tags", "line,site", "--fields", "force:float64,ok:bool", "-r", "30d", "press"
    )
    assert (made.code, made.out) == (0, 'Table "del1"."press" created successfully\n')
    assert local("write", *where, "press,line=3 force=1,ok=t").code == 0
    assert "line, site" in local("show", "tables", *where).out
    assert local("update", "table", *where, "-r", "none", "press").code == 0
    assert json.loads(local("show", "tables", *where, "--format", "json").out)[0]["retention_period"] == "none"
    assert local("delete", "table", *where, "--yes", "press").code == 0
    assert "There is no table" in local("show", "tables", *where).out
    assert "press" in local("show", "tables", *where, "--deleted").out
    assert local("restore", "table", *where, "--as", "old", "press").out == (
        'Table "press" restored successfully as "old"\n'
    )
    assert "71.3" not in local("query", *where, "SELECT force FROM old").out
    assert local("delete", "table", *where, "--yes", "--hard", "old").code == 0
    said = local("restore", "table", *where, "old")
    assert (said.code, "can be restored" in said.err) == (1, True)


def test_a_database_by_command(local: Command) -> None:
    assert local("create", "database", "-r", "30d", "del2").code == 0
    assert local("update", "database", "-r", "1h", "del2").code == 0
    row = next(line for line in local("show", "databases").out.splitlines() if "| del2 " in line)
    assert [cell.strip() for cell in row.split("|")[1:4]] == ["del2", "1h", "0"]
    assert local("delete", "database", "--yes", "--hard-delete-at", "never", "del2").code == 0
    assert "del2" in local("show", "databases", "--deleted").out
    assert local("restore", "database", "del2").out == 'Database "del2" restored successfully\n'


def test_rows_by_command(local: Command) -> None:
    where = ("--database", "del3")
    assert local("write", *where, "-p", "ns", "cpu v=1 1\ncpu v=2 2\ncpu v=3 3").code == 0
    some = ("delete", "rows", *where, "--table", "cpu", "--where", "v > 1")
    times = "from 1970-01-01T00:00:00.000000002Z to 1970-01-01T00:00:00.000000003Z"
    assert local(*some, "--dry-run").out == f"2 rows {times} would be deleted\n"
    refused = local(*some)
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert local(*some, "--yes").out == f"2 rows {times} deleted successfully\n"
    assert local(*some, "--yes").out == "No row deleted successfully\n"
    assert json.loads(local("query", *where, "--format", "json", "SELECT v FROM cpu").out) == [{"v": 1.0}]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create", "table", "-d", "x", "--fields", "v", "t"), 2, "NAME:TYPE"),
        (("create", "table", "-d", "x", "--fields", "v:bool,v:bool", "t"), 2, "given twice"),
        (("create", "table", "-d", "x", "t"), 1, "needs a field"),
        (("create", "database", "-r", "soon", "x"), 1, "for ever is `none`"),
        (("delete", "table", "-d", "x", "t"), 2, "--yes"),
        (("delete", "database", "-y", "--hard", "--hard-delete-at", "1d", "x"), 2, "leave one of them away"),
        (("delete", "database", "-y", "--hard-delete-at", "soon", "x"), 1, "none of now"),
        (("delete", "rows", "-d", "x", "--table", "t", "--where", "v=1", "-y"), 1, "no database 'x'"),
        (("delete", "rows", "-d", "x", "--table", "t", "-y"), 2, "--where"),
        (("update", "table", "-d", "x", "t"), 2, "retention-period"),
        (("restore", "database", "nothing"), 1, "can be restored"),
        (("show", "tables", "-d", "nothing"), 1, "no database 'nothing'"),
    ],
)
def test_what_is_wrong_is_a_sentence(local: Command, arguments: tuple[str, ...], code: int, said: str) -> None:
    answer = local(*arguments)
    assert (answer.code, said in answer.err) == (code, True), answer
