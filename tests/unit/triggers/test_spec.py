"""Specs: what they say, that their text comes back, what is refused, and which paths meet."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from starlette.routing import compile_path

from walmill.errors import InvalidRequest
from walmill.triggers.paths import CONVERTORS, shared_url
from walmill.triggers.spec import (
    AllTables,
    CronSpec,
    EverySpec,
    RequestSpec,
    ServiceSpec,
    SnapshotSpec,
    Spec,
    TablePattern,
    TableSpec,
    calendar_problem,
    fire_times,
    parse_spec,
    paths_overlap,
)
from walmill.units import HOUR, MILLISECOND, MINUTE, SECOND, YEAR


@pytest.mark.parametrize(
    ("text", "expected", "canonical"),
    [
        ("table:cpu", TableSpec(("cpu",)), "table:cpu"),
        ("  table: cpu  ", TableSpec(("cpu",)), "table:cpu"),
        ("table:cpu, mem,cpu", TableSpec(("cpu", "mem")), "table:cpu,mem"),
        ("table:sensor_*", TableSpec((), (TablePattern(("sensor_", "")),)), "table:sensor_*"),
        ("table:a**b,cpu", TableSpec(("cpu",), (TablePattern(("a", "b")),)), "table:cpu,a*b"),
        (r"table:a\,b", TableSpec(("a,b",)), r"table:a\,b"),
        (r"table:a\*", TableSpec(("a*",)), r"table:a\*"),
        (r"table:a\\b", TableSpec(("a\\b",)), r"table:a\\b"),
        (r"table:a\b", TableSpec(("a\\b",)), r"table:a\\b"),
        ("table:\\ a\\ ", TableSpec((" a ",)), "table:\\ a\\ "),
        ("table:room temperature", TableSpec(("room temperature",)), "table:room temperature"),
        ("table:table:x", TableSpec(("table:x",)), "table:table:x"),
        (" all_tables ", AllTables(), "all_tables"),
        (" service", ServiceSpec(), "service"),
        (" snapshot ", SnapshotSpec(), "snapshot"),
        ("snapshot: cpu ,m*", SnapshotSpec(TableSpec(("cpu",), (TablePattern(("m", "")),))), "snapshot:cpu,m*"),
        ("every:10s", EverySpec(10 * SECOND), "every:10s"),
        ("every: 1m 30s", EverySpec(90 * SECOND), "every:1m30s"),
        ("every:0.5s", EverySpec(500 * MILLISECOND), "every:500ms"),
        ("every:1ms", EverySpec(MILLISECOND), "every:1ms"),
        ("every:1 year", EverySpec(YEAR), "every:1y"),
        ("cron:*/5  * * * *", CronSpec("*/5 * * * *"), "cron:*/5 * * * *"),
        (
            "cron: 0 9 * * MON @ Europe/Berlin",
            CronSpec("0 9 * * MON", "Europe/Berlin"),
            "cron:0 9 * * MON@Europe/Berlin",
        ),
        ("cron:0 9 * * *@UTC", CronSpec("0 9 * * *"), "cron:0 9 * * *"),
        ("cron:@hourly", CronSpec("@hourly"), "cron:@hourly"),
        ("cron:@daily@Asia/Kolkata", CronSpec("@daily", "Asia/Kolkata"), "cron:@daily@Asia/Kolkata"),
        ("request:devices", RequestSpec("devices"), "request:devices"),
        ("request: /devices/{id:int}/ ", RequestSpec("devices/{id:int}"), "request:devices/{id:int}"),
        ("request:a/b.c/{x}-{y}", RequestSpec("a/b.c/{x}-{y}"), "request:a/b.c/{x}-{y}"),
        ("request:grüße/{rest:path}", RequestSpec("grüße/{rest:path}"), "request:grüße/{rest:path}"),
    ],
)
def test_specs(text: str, expected: Spec, canonical: str) -> None:
    assert parse_spec(text) == expected
    assert str(expected) == canonical
    assert parse_spec(canonical) == expected


FORMS = "expect one of the following forms: 'table:<TABLE_NAME>', 'all_tables', 'cron:<CRON_EXPRESSION>', 'every:<DURATION>'"


@pytest.mark.parametrize(
    ("text", "context", "remedy"),
    [
        ("", FORMS, ""),
        ("cpu", FORMS, "or 'snapshot:<TABLE_NAME>'"),
        ("All_tables", FORMS, ""),
        ("tables:cpu", FORMS, ""),
        ("all_tables:", FORMS, ""),
        ("table:", "table name is empty", "all_tables"),
        ("table:a,,b", "table name is empty", "table:cpu,mem"),
        ("table:a,", "table name is empty", ""),
        ("table:#a", "comment", ""),
        ("every:", "couldn't parse to duration", "10s"),
        ("every:10", "couldn't parse to duration", "10s"),
        ("every:10 bananas", "couldn't parse to duration", "use ns, us"),
        ("every:0s", "don't support every schedules of under 1ms", "every:1ms"),
        ("every:999us", "don't support every schedules of under 1ms", "every:1ms"),
        ("every:366d", "don't support every schedules of over 1 year", "cron:0 0 1 1 *"),
        ("cron:", "0 fields", "6 (second first)"),
        ("cron:* * * *", "4 fields", "5 (minute"),
        ("cron:0 0 30 2 *", "names no time at all", ""),
        ("cron:0 0 * * *@", "time zone after @ is empty", "@Europe/Berlin"),
        ("cron:0 0 * * *@Europe/Berln", "'Europe/Berln' is unknown", "Europe/Berlin"),
        ("request:", "request path is empty", "request:devices"),
        ("request:/", "request path is empty", ""),
        ("request:a//b", "empty segment", ""),
        ("request:a/../b", "'..'", "leave it out"),
        ("request:a/./b", "'.'", ""),
        ("request:a?x=1", "query string", "request.query_params"),
        ("request:a#b", "fragment", ""),
        ("request:a b", "' '", "decoded"),
        ("request:a%20b", "'%'", "decoded"),
        ("request:a\\b", r"'\\'", ""),
        ("request:a\x00b", r"'\x00'", ""),
        ("request:{1d}", "{1d}", "{id:int}"),
        ("request:{}", "{}", "{id}"),
        ("request:{id:float32}", "'float32'", "str, path, int, float, uuid"),
        ("request:{id:}", "''", "str, path"),
        ("request:{id", "no partner", "{name}"),
        ("request:id}", "no partner", ""),
        ("request:{{id}}", "no partner", ""),
        ("request:{id}/{id:int}", "{id} occurs twice", "name of its own"),
        ("request:" + "a" * 2000, "2000 characters", "1024"),
    ],
)
def test_what_is_refused(text: str, context: str, remedy: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_spec(text)
    assert caught.value.message.startswith(f"failed to parse trigger from {text[:100].strip()}")
    assert context in caught.value.message
    assert remedy in caught.value.message
    assert len(caught.value.message) < 700


@pytest.mark.parametrize(
    ("text", "kind", "hook"),
    [
        ("table:cpu", "write", "on_write"),
        ("all_tables", "write", "on_write"),
        ("every:1h", "schedule", "on_schedule"),
        ("cron:@daily", "schedule", "on_schedule"),
        ("request:x", "request", "on_request"),
    ],
)
def test_each_spec_knows_its_hook(text: str, kind: str, hook: str) -> None:
    spec = parse_spec(text)
    assert (spec.kind, spec.hook) == (kind, hook)


@pytest.mark.parametrize(
    ("text", "table", "matches", "named"),
    [
        ("table:cpu,mem", "mem", True, True),
        ("table:cpu,mem", "cpu2", False, False),
        ("table:sensor_*", "sensor_1", True, False),
        ("table:sensor_*", "sensor_", True, False),
        ("table:sensor_*", "my_sensor_1", False, False),
        ("table:*_1m", "cpu_1m", True, False),
        ("table:a*b*c", "a-b-c", True, False),
        ("table:a*b*c", "a-c-b", False, False),
        ("table:a.c*", "abc", False, False),
        ("table:sensor_*,sensor_1", "sensor_1", True, True),
        ("table:sensor_*,sensor_1", "sensor_2", True, False),
        (r"table:a\*", "ab", False, False),
        (r"table:a\*", "a*", True, True),
        ("table:*", "anything\nat all", True, False),
        ("all_tables", "cpu", True, False),
    ],
)
def test_which_tables_concern_a_spec_and_which_it_names(text: str, table: str, matches: bool, named: bool) -> None:
    spec = parse_spec(text)
    assert isinstance(spec, TableSpec | AllTables)
    assert (spec.matches(table), spec.names(table)) == (matches, named)
    assert spec.broad == ("*" in text.replace(r"\*", "") or text == "all_tables")


def test_the_schedules_of_specs() -> None:
    every, cron = parse_spec("every:1h"), parse_spec("cron:0 9 * * *@Europe/Berlin")
    assert isinstance(every, EverySpec)
    assert isinstance(cron, CronSpec)
    assert every.schedule().next_after(5 * MINUTE) == HOUR
    assert cron.schedule().next_after(0) == 8 * HOUR
    assert str(cron.schedule().zone) == "Europe/Berlin"
    assert cron.schedule() is CronSpec("0 9 * * *", "Europe/Berlin").schedule()


table_names = st.text(
    st.characters(exclude_characters="\0\n\t\\", exclude_categories=["Cs"]) | st.sampled_from(",* ab"),
    min_size=1,
    max_size=8,
).filter(lambda name: not name.startswith("#"))
patterns = st.lists(st.text(st.sampled_from(",* ab\\"), min_size=1, max_size=3), min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from([("", *parts), (*parts, ""), ("", *parts, ""), (*parts, "end")])
)
specs = st.one_of(
    st.tuples(
        st.lists(table_names | table_names.map(lambda name: f"a\\{name}"), max_size=3, unique=True),
        st.lists(patterns.map(TablePattern), max_size=2, unique=True),
    )
    .filter(any)
    .map(lambda both: TableSpec(tuple(both[0]), tuple(both[1]))),
    st.just(AllTables()),
    st.just(ServiceSpec()),
    st.just(SnapshotSpec()),
    st.integers(MILLISECOND, YEAR).map(EverySpec),
    st.builds(
        CronSpec,
        st.sampled_from(["@hourly", "*/5 * * * *", "0 0 12 ? * MON#1", "0 0 0 1 1 * 2030"]),
        st.sampled_from(["UTC", "Europe/Berlin", "Etc/GMT+5"]),
    ),
    st.sampled_from(["a", "a/b", "a/{id}", "{x:float}/{y:path}"]).map(RequestSpec),
)


@settings(max_examples=200)
@given(specs)
def test_every_spec_comes_back_from_its_text(spec: Spec) -> None:
    assert parse_spec(str(spec)) == spec


@settings(max_examples=300)
@given(st.sampled_from(["", "table:", "every:", "cron:", "request:"]), st.text(max_size=30))
def test_any_text_is_a_spec_or_a_clear_error(prefix: str, rest: str) -> None:
    try:
        spec = parse_spec(prefix + rest)
    except InvalidRequest:
        with pytest.raises(InvalidRequest, match="failed to parse trigger from"):
            parse_spec(prefix + rest)
    else:
        assert parse_spec(str(spec)) == spec


@pytest.mark.parametrize(
    ("path_a", "path_b", "meet"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "ab", False),
        ("a/{x}", "a/b", True),
        ("a/{x}", "a", False),
        ("a/{x}", "a/b/c", False),
        ("a/{x}/c", "a/b/{y}", True),
        ("{x}", "{y:int}", True),
        ("a/{x:int}", "a/12", True),
        ("a/{x:int}", "a/b", False),
        ("a/{x:int}", "a/1b", False),
        ("a/{x:int}", "a/{y:float}", True),
        ("a/{x:float}", "a/1.5", True),
        ("a/{x:float}", "a/1.", False),
        ("a/{x:float}", "a/.5", False),
        ("a/{x:int}.{y:int}", "a/{z:float}", True),
        ("a/{x:int}.{y:int}.{w:int}", "a/{z:float}", False),
        ("a/{x:uuid}", "a/{y:int}", True),
        ("a/{x:uuid}", "a/{y:int}-{z:int}", True),
        ("a/{x:uuid}", "a/{y:int}-{z:int}-{u:int}-{v:int}-{w:int}-{t:int}", False),
        ("a/{x:uuid}", "a/g{y}", False),
        ("a/{x:uuid}", "a/f{y}", True),
        ("a/{x:path}", "a", False),
        ("a/{x:path}", "a/b", True),
        ("a/{x:path}", "b/{y:path}", False),
        ("{x:path}/end", "a/b/end", True),
        ("{x:path}/end", "a/b/ending", False),
        ("{x:path}", "a/b/{y:uuid}", True),
        ("a{x:path}b", "ab", True),
        ("a{x}b", "ab", False),
        ("a-{x}", "{y}-b", True),
        ("{x}.json", "{y}.csv", False),
    ],
)
def test_which_paths_meet(path_a: str, path_b: str, meet: bool) -> None:
    assert paths_overlap(path_a, path_b) is meet
    assert paths_overlap(path_b, path_a) is meet


@st.composite
def paths(draw: st.DrawFn) -> str:
    literal = st.sampled_from(["a", "1", "/", ".", "-", "a1", "0f"])
    piece = literal | st.sampled_from(CONVERTORS).map(lambda convertor: f":{convertor}")
    pieces = draw(st.lists(piece, min_size=1, max_size=4))
    return "".join(f"{{p{index}{text}}}" if text.startswith(":") else text for index, text in enumerate(pieces))


def regex_of(path: str) -> re.Pattern[str]:
    return compile_path(f"/{path}")[0]


@settings(max_examples=300)
@given(paths(), paths(), st.data())
def test_paths_meet_exactly_where_starlette_routes_meet(path_a: str, path_b: str, data: st.DataObject) -> None:
    shared = shared_url(path_a, path_b)
    if shared is not None:
        # the example is a proof
        assert regex_of(path_a).match(f"/{shared}")
        assert regex_of(path_b).match(f"/{shared}")
    else:
        url = data.draw(st.from_regex(regex_of(path_a), fullmatch=True))
        assume("\n" not in url)
        assert not regex_of(path_b).match(url)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("every:1M", "cron:0 0 1 * *"),
        ("every:3 months", "cron:0 0 1 */3 *"),
        ("every:5M", "cron for dates"),
        ("every:1y", "cron:0 0 1 1 *"),
        ("every:1 year", "cron:0 0 1 1 *"),
    ],
)
def test_months_and_years_are_no_durations(text: str, meant: str) -> None:
    problem = calendar_problem(text)
    assert problem is not None
    assert meant in problem


@pytest.mark.parametrize("text", ["every:30d", "every:2w", "every:1m", "cron:0 0 1 * *", "table:y"])
def test_other_specs_are_what_they_say(text: str) -> None:
    assert calendar_problem(text) is None


def test_the_next_due_times() -> None:
    second = 10**9
    assert fire_times(parse_spec("every:10s"), 25 * second) == [second * n for n in (30, 40, 50, 60, 70)]
    assert fire_times(parse_spec("cron:0 0 0 1 1 * 2030"), 0)[0] == 1893456000 * second
    assert len(fire_times(parse_spec("cron:0 0 0 1 1 * 2030"), 0)) == 1
    assert fire_times(parse_spec("table:cpu"), 0) == []
