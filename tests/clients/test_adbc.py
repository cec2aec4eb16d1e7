"""ADBC's Flight SQL driver as it comes from the registry: statements, prepared ones, and what it asks about a database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import adbc_driver_manager
import httpx2
import pyarrow as pa
import pytest
from adbc_driver_flightsql import DatabaseOptions, dbapi
from pyarrow import flight

pytestmark = pytest.mark.may_leave("file", reason="gRPC keeps its poll sets as long as the process lives")
DATABASE = "adbc_rows"


@pytest.fixture(scope="module")
def connection(server: Any) -> Iterator[dbapi.Connection]:
    answer = httpx2.post(
        f"{server.url}/api/v3/write_lp?db={DATABASE}",
        content="\n".join(
            f'cpu,host=h{n % 3} v={n}.5,s="x{n}" {n}\nMem,host=h used={n}i {n}' for n in range(9)
        ).encode(),
        headers={"authorization": f"Bearer {server.token}"},
        trust_env=False,
    )
    assert answer.status_code == 204, answer.text
    with _connect(server, database=DATABASE) as made:
        yield made


def _connect(server: Any, **headers: str) -> dbapi.Connection:
    prefix = DatabaseOptions.RPC_CALL_HEADER_PREFIX.value
    options = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {server.token}"}
    options |= {f"{prefix}{name}": value for name, value in headers.items()}
    return dbapi.connect(f"grpc://127.0.0.1:{server.port}", db_kwargs=options, autocommit=True)


def test_statements(connection: dbapi.Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT host, v, s, time FROM cpu ORDER BY time LIMIT 2")
        assert [one[0] for one in cursor.description] == ["host", "v", "s", "time"]
        assert [row[:3] for row in cursor.fetchall()] == [("h0", 0.5, "x0"), ("h1", 1.5, "x1")]
        cursor.execute('SELECT count(*) AS n FROM "Mem"')
        assert cursor.fetch_arrow_table().to_pylist() == [{"n": 9}]
        assert cursor.adbc_execute_schema("SELECT v, host FROM cpu") == pa.schema(
            [pa.field("v", pa.float64()), pa.field("host", pa.string())]
        )


def test_a_prepared_statement_runs_again(connection: dbapi.Connection) -> None:
    with connection.cursor() as cursor:
        assert cursor.adbc_prepare("SELECT max(v) AS m FROM cpu") == pa.schema([])
        for _ in range(3):
            cursor.execute("SELECT max(v) AS m FROM cpu")
            assert cursor.fetchone() == (8.5,)


def test_values_are_bound(connection: dbapi.Connection) -> None:
    with connection.cursor() as cursor:
        for least, host, found in ((3, "h0", [(3.5,), (6.5,)]), (6.5, "h0", [(6.5,)]), (100, "x", [])):
            cursor.execute("SELECT v FROM cpu WHERE v >= $1 AND host = $2 ORDER BY v", (least, host))
            assert cursor.fetchall() == found
        cursor.execute("SELECT count(*) AS n FROM cpu WHERE time >= $1", (datetime(1970, 1, 1, tzinfo=UTC),))
        assert cursor.fetchone() == (9,)
        for values, said in (((b"x",), "binary"), ((1, 2), r"\$?2"), ((), "placeholder")):
            with pytest.raises(adbc_driver_manager.Error, match=said):
                cursor.execute("SELECT v FROM cpu WHERE v > $1", values)


def test_what_a_database_holds(connection: dbapi.Connection) -> None:
    assert connection.adbc_get_info()["vendor_name"] == "Walmill"
    assert connection.adbc_get_table_types() == ["BASE TABLE", "VIEW"]
    (public,) = connection.adbc_get_objects(depth="all").read_all().to_pylist()
    assert public["catalog_name"] == "public"
    schemas = {one["db_schema_name"]: one for one in public["catalog_db_schemas"]}
    assert {"iox", "information_schema", "system"} <= set(schemas)
    tables = {one["table_name"]: one for one in schemas["iox"]["db_schema_tables"]}
    assert set(tables) == {"cpu", "Mem"}
    assert [one["column_name"] for one in tables["cpu"]["table_columns"]] == ["host", "v", "s", "time"]
    found = connection.adbc_get_objects(depth="tables", table_name_filter="M_m", db_schema_filter="i%").read_all()
    (public,) = found.to_pylist()
    assert [
        (schema["db_schema_name"], [one["table_name"] for one in schema["db_schema_tables"]])
        for schema in public["catalog_db_schemas"]
        if schema["db_schema_tables"]
    ] == [("iox", ["Mem"])]
    assert connection.adbc_get_table_schema("Mem").names == ["host", "used", "time"]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT * FROM nothing", "'nothing' does not exist"),
        ("SELECT v FROM", "Expected: identifier"),
        ("DROP TABLE cpu", "read"),
    ],
)
def test_errors(connection: dbapi.Connection, sql: str, said: str) -> None:
    with connection.cursor() as cursor, pytest.raises(adbc_driver_manager.Error, match=said) as raised:
        cursor.execute(sql)
    assert "Traceback" not in str(raised.value)


def test_what_is_not_there_says_so(server: Any) -> None:
    with (
        _connect(server) as unnamed,
        unnamed.cursor() as cursor,
        pytest.raises(adbc_driver_manager.Error, match="no database is named; send one of the headers database"),
    ):
        cursor.execute("SELECT 1")
    options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {server.token}".encode())])
    descriptor = flight.FlightDescriptor.for_path("cpu")
    with flight.connect(f"grpc://127.0.0.1:{server.port}") as client:
        assert [one.type for one in client.list_actions(options)] == [
            "CreatePreparedStatement",
            "ClosePreparedStatement",
        ]
        for call, match in (
            (lambda: client.get_flight_info(descriptor, options), "a path is no query"),
            (lambda: list(client.list_flights(options=options)), "ListFlights"),
            (lambda: list(client.do_action(flight.Action("Fly", b""), options)), "'Fly' is not known"),
            (lambda: list(client.do_action(flight.Action("CreatePreparedStatement", b"x"), options)), "body"),
            (lambda: client.do_get(flight.Ticket(b"\x0a\x10a/some.Message.X"), options).read_all(), "some.Message.X"),
            (lambda: _put(client, descriptor, options), "reads only"),
        ):
            with pytest.raises(flight.FlightServerError, match=match) as raised:
                call()
            assert "Traceback" not in str(raised.value)


def _put(client: flight.FlightClient, descriptor: Any, options: Any) -> None:
    writer, _ = client.do_put(descriptor, pa.schema([("a", pa.int64())]), options)
    writer.close()


def test_a_command_and_its_columns_agree(server: Any, connection: dbapi.Connection) -> None:
    from walmill.flight.messages import make, wrap

    options = flight.FlightCallOptions(
        headers=[(b"authorization", f"Bearer {server.token}".encode()), (b"database", DATABASE.encode())]
    )
    with flight.connect(f"grpc://127.0.0.1:{server.port}") as client:
        for name, fields in (
            ("CommandGetCatalogs", {}),
            ("CommandGetDbSchemas", {}),
            ("CommandGetTables", {}),
            ("CommandGetTables", {"include_schema": True, "table_types": ["BASE TABLE"]}),
            ("CommandGetTableTypes", {}),
            ("CommandGetSqlInfo", {}),
            ("CommandGetXdbcTypeInfo", {}),
            ("CommandGetXdbcTypeInfo", {"data_type": 1}),
            ("CommandGetPrimaryKeys", {"table": "cpu"}),
            ("CommandGetImportedKeys", {"table": "cpu"}),
            ("CommandGetCrossReference", {}),
            ("CommandStatementQuery", {"query": "SELECT * FROM cpu"}),
        ):
            info = client.get_flight_info(flight.FlightDescriptor.for_command(wrap(make(name, **fields))), options)
            assert client.do_get(info.endpoints[0].ticket, options).read_all().schema == info.schema, name


def test_the_types_of_columns_as_drivers_of_jdbc_ask_for_them(server: Any, connection: dbapi.Connection) -> None:
    from walmill.flight.messages import make, wrap

    del connection
    options = flight.FlightCallOptions(
        headers=[(b"authorization", f"Bearer {server.token}".encode()), (b"database", DATABASE.encode())]
    )
    with flight.connect(f"grpc://127.0.0.1:{server.port}") as client:

        def told(**fields: int) -> list[tuple[str, int]]:
            command = wrap(make("CommandGetXdbcTypeInfo", **fields))
            info = client.get_flight_info(flight.FlightDescriptor.for_command(command), options)
            found = client.do_get(info.endpoints[0].ticket, options).read_all()
            found.validate(full=True)
            return [(row["type_name"], row["data_type"]) for row in found.to_pylist()]

        every = told()
        assert every == sorted(every, key=lambda one: one[1])
        assert [name for name, _ in every] == ["BOOLEAN", "BIGINT", "BIGINT UNSIGNED", "DOUBLE", "VARCHAR", "TIMESTAMP"]
        assert told(data_type=-5) == [("BIGINT", -5), ("BIGINT UNSIGNED", -5)]
        assert told(data_type=0) == []


def test_a_user_with_the_token_as_password(server: Any, connection: dbapi.Connection) -> None:
    """As drivers log in that know nothing else: the handshake answers with the header of further calls."""
    del connection
    prefix = DatabaseOptions.RPC_CALL_HEADER_PREFIX.value
    for password, good in ((server.token, True), ("wm_wrong", False)):
        options = {"username": "anyone", "password": password, f"{prefix}database": DATABASE}
        if not good:
            with pytest.raises(adbc_driver_manager.Error, match="not authenticated"):
                dbapi.connect(f"grpc://127.0.0.1:{server.port}", db_kwargs=options, autocommit=True)
            continue
        with (
            dbapi.connect(f"grpc://127.0.0.1:{server.port}", db_kwargs=options, autocommit=True) as made,
            made.cursor() as cursor,
        ):
            cursor.execute("SELECT count(*) AS n FROM cpu")
            assert cursor.fetchone() == (9,)


def test_a_handshake_of_pyarrow(server: Any) -> None:
    with flight.FlightClient(f"grpc://127.0.0.1:{server.port}") as client:
        assert client.authenticate_basic_token(b"anyone", server.token.encode()) == (
            b"authorization",
            f"Bearer {server.token}".encode(),
        )
        for password in (b"", b"wrong"):
            with pytest.raises(flight.FlightError) as raised:
                client.authenticate_basic_token(b"anyone", password)
            assert "Traceback" not in str(raised.value)
