"""The triggers that the mill has at hand are those of the catalog, whatever was changed in between."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from walmill.dispatch.subscriptions import Triggers, changed_triggers
from walmill.model.catalog import Catalog, create_database
from walmill.model.trigger import Trigger

STEPS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "again", "drop", "drop_database", "delete_database", "database", "table"]),
            st.integers(0, 9),
        ),
        min_size=1,
        max_size=3,
    ),
    max_size=25,
)


def _definition(catalog: Catalog, op: str, number: int) -> dict[str, object] | None:
    databases = sorted(catalog.databases)
    database = databases[number % len(databases)] if databases else None
    triggers = sorted(catalog.triggers)
    trigger = triggers[number % len(triggers)] if triggers else None
    name = f"n{number}"
    match op:
        case "database":
            return None if name in catalog.names else create_database(catalog, name, 0)
        case "put" if database is not None and name not in catalog.databases[database].triggers:
            made = Trigger(id=catalog.next_id, database_id=database, name=name, plugin="p", spec="table:x")
            return {"op": "put_trigger", "trigger": made.to_json()}
        case "again" if trigger is not None:
            changed = {**catalog.triggers[trigger].to_json(), "state": "paused", "generation": number + 2}
            return {"op": "put_trigger", "trigger": changed}
        case "drop" if trigger is not None:
            return {"op": "drop_trigger", "id": trigger}
        case "drop_database" if database is not None:
            return {"op": op, "id": database}
        case "delete_database" if database is not None:
            return {"op": op, "id": database, "at": 1, "until": None}
        case "table" if database is not None and name not in catalog.databases[database].tables:
            return {"op": "create_table", "id": catalog.next_id, "db": database, "name": name, "tags": [], "fields": {}}
    return None


@settings(max_examples=200)
@given(STEPS, st.sets(st.integers(0, 25)))
def test_they_are_those_of_the_catalog(steps: list[list[tuple[str, int]]], unknown: set[int]) -> None:
    catalog, mine = Catalog(), Triggers()
    for op in ("database", "put"):
        first = _definition(catalog, op, 0)
        assert first is not None
        catalog = catalog.apply(first)
    mine.follow(catalog)
    for place, step in enumerate(steps):
        definitions = []
        for op, number in step:
            definition = _definition(catalog, op, number)
            if definition is not None:
                catalog = catalog.apply(definition)
                definitions.append(definition)
        mine.follow(catalog, None if place in unknown else definitions)
        assert mine.by_id == {one.id: one for one in catalog.triggers.values()}


def test_what_changes_concern() -> None:
    assert changed_triggers([]) == set()
    assert changed_triggers([{"op": "put_token"}, {"op": "drop_trigger", "id": 7}]) == {7}
    assert changed_triggers([{"op": "put_trigger", "trigger": {"id": 3}}, {"op": "create_table"}]) == {3}
    assert changed_triggers([{"op": "drop_trigger", "id": 7}, {"op": "delete_database", "id": 1}]) is None
    assert changed_triggers([{"op": "of a later version"}]) is None
