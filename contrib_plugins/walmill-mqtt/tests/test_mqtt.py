"""The source against a real mosquitto: what was acknowledged is stored, and stored once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion
from walmill_mqtt.payload import Shape, Unreadable, rows_of
from walmill_mqtt.settings import Mqtt
from walmill_mqtt.topics import Pattern

from walmill import Engine
from walmill.testing.suite import plugin_suite
from walmill_hookspecs import BadSettings
from walmill_hookspecs.settings import parse

TestContract = plugin_suite("walmill_mqtt.source", arguments={"topics": ["a/#"], "port": "9"})
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
CHILD = """
import sys, time
from pathlib import Path
from walmill import Engine, EngineOptions
with Engine.open(EngineOptions(data_dir=Path(sys.argv[1]), discover_plugins=False, shutdown_timeout=5.0)) as engine:
    engine.add_plugin("mqtt", "walmill_mqtt.source")
    print("open", flush=True)
    time.sleep(3600)
"""


def wait(found: Callable[[], Any], seconds: float = 30.0) -> Any:
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)
    return value


class Broker:
    """A mosquitto that keeps its sessions on disk."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        home.chmod(0o777)
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._config = home / "mosquitto.conf"
        user = "user root\n" if os.getuid() == 0 else ""
        self._config.write_text(
            f"{user}listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {home}/\n"
            "max_queued_messages 0\nautosave_interval 1\nautosave_on_changes true\n"
        )

    def start(self) -> None:
        assert MOSQUITTO is not None
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stdout=log, stderr=log)
        wait(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as link:
            return link.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(10)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if MOSQUITTO is None:
        pytest.skip("the broker mosquitto is not installed: apt-get install mosquitto")
    home = tmp_path / "broker"
    home.mkdir()
    made = Broker(home)
    made.start()
    yield made
    made.stop()


class Sender:
    """Publishes with QoS 1, and goes on when the broker comes back."""

    def __init__(self, port: int) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="sender", clean_session=False)
        self._client.reconnect_delay_set(0.1, 0.2)
        self._client.max_inflight_messages_set(100)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._sent: list[paho.MQTTMessageInfo] = []

    def send(self, topic: str, payload: str | bytes) -> None:
        self._sent.append(self._client.publish(topic, payload, qos=1))

    @property
    def done(self) -> bool:
        return all(one.is_published() for one in self._sent)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def sender(broker: Broker) -> Iterator[Sender]:
    made = Sender(broker.port)
    yield made
    made.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine.open(data_dir=tmp_path / "data", discover_plugins=False, shutdown_timeout=5.0) as opened:
        opened.add_plugin("mqtt", "walmill_mqtt.source")
        yield opened


def create(engine: Engine, port: int, **more: Any) -> None:
    arguments = {"topics": "plant/#", "port": str(port), "reconnect": "100ms", **more}
    engine.create_trigger(database="d", name="t", plugin="mqtt", spec="service", arguments=arguments)


def subscribed(engine: Engine, times: int = 1) -> bool:
    """Whether the source has subscribed: what is published before that is nobody's."""
    try:
        found = engine.query("SELECT text FROM logs WHERE text LIKE 'subscribed%'", database="_internal")
    except LookupError:
        return False
    return bool(found.num_rows >= times)


def count(engine: Engine, table: str = "mqtt") -> int:
    try:
        return int(engine.query(f"SELECT count(*) FROM {table}", database="d").column(0)[0].as_py())
    except LookupError:
        return 0


def test_messages_become_rows(broker: Broker, sender: Sender, engine: Engine) -> None:
    create(engine, broker.port, topic_tags="plant/{site}/{device}/+", tags="unit", time="at", id="id", topic_tag="")
    wait(lambda: subscribed(engine))
    said = {
        "id": "m1",
        "at": 1_700_000_000.5,
        "unit": "C",
        "value": 20,
        "where": {"x": 1.5, "near": True},
        "none": None,
    }
    sender.send("plant/north/press/temp", json.dumps(said))
    sender.send("plant/north/press/temp", json.dumps({**said, "value": 99}))  # the same id
    sender.send("plant/south/saw/temp", json.dumps([{"id": 7, "at": "2023-11-14T22:13:21Z", "value": 1}]))
    sender.send("plant/x/y/z", b"\xff no text")
    sender.send("plant/x/y/z", json.dumps({"id": "m2", "at": 1, "value": "a text where numbers are"}))
    wait(lambda: count(engine) == 2 and count(engine, "mqtt_rejected") == 2)
    rows = engine.query("SELECT * FROM mqtt ORDER BY time", database="d").to_pylist()
    assert {name: rows[0][name] for name in ("site", "device", "unit", "value", "where_x", "where_near", "id")} == {
        "site": "north", "device": "press", "unit": "C", "value": 20.0, "where_x": 1.5, "where_near": True, "id": "m1",
    }  # fmt: skip
    assert rows[0]["time"].isoformat() == "2023-11-14T22:13:20.500000"
    wrong = engine.query("SELECT error FROM mqtt_rejected", database="d").column(0).to_pylist()
    assert any("not UTF-8" in one for one in wrong)
    assert any("value" in one for one in wrong)


def test_line_protocol_and_numbers(broker: Broker, sender: Sender, engine: Engine) -> None:
    create(engine, broker.port, format="line")
    wait(lambda: subscribed(engine))
    sender.send("plant/a", "cpu,host=a usage=1.5 1\ncpu,host=b usage=2 2")
    sender.send("plant/a", "no line at all")
    wait(lambda: count(engine, "cpu") == 2 and count(engine, "mqtt_rejected") == 1)


def test_a_source_that_was_away_gets_what_came_meanwhile(broker: Broker, sender: Sender, engine: Engine) -> None:
    create(engine, broker.port, format="value")
    wait(lambda: subscribed(engine))
    sender.send("plant/a", "1")
    wait(lambda: count(engine) == 1)
    engine.disable_trigger("d", "t")
    wait(lambda: not engine.trigger("d", "t")["running"])
    for number in range(200):
        sender.send("plant/a", str(number))
    wait(lambda: sender.done)
    assert count(engine) == 1
    engine.enable_trigger("d", "t")
    wait(lambda: count(engine) == 201)


def test_a_broker_that_is_not_there(broker: Broker, engine: Engine) -> None:
    broker.stop()
    create(engine, broker.port, format="value")
    wait(lambda: "gave no answer" in (engine.trigger("d", "t")["last_error"] or ""))
    broker.start()
    wait(lambda: subscribed(engine))
    made = Sender(broker.port)
    made.send("plant/a", "1")
    wait(lambda: count(engine))
    made.close()


def _exactly_once(tmp_path: Path, broker: Broker, *, messages: int, away: float, kills: int) -> None:
    """The engine is killed again and again while messages come, and the broker is away in between."""
    data = tmp_path / "data"
    with Engine.open(data_dir=data, discover_plugins=False) as engine:
        engine.add_plugin("mqtt", "walmill_mqtt.source")
        create(engine, broker.port, id="id")
        wait(lambda: subscribed(engine))

    def start() -> subprocess.Popen[bytes]:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(data)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        return child

    def kill(child: subprocess.Popen[bytes]) -> None:
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        assert child.stdout is not None
        child.stdout.close()

    child = start()
    sender = Sender(broker.port)
    try:
        for part in range(kills + 1):
            for number in range(part * messages // (kills + 1), (part + 1) * messages // (kills + 1)):
                sender.send("plant/a", json.dumps({"id": number, "value": number}))
                if number % 50 == 0:
                    time.sleep(0.01)
            if part == kills // 2:
                broker.stop()
                time.sleep(away)
                broker.start()
            if part < kills:
                kill(child)
                child = start()
        wait(lambda: sender.done, 120)
    finally:
        sender.close()
        kill(child)
    with Engine.open(data_dir=data, discover_plugins=False) as engine:
        engine.add_plugin("mqtt", "walmill_mqtt.source")
        wait(lambda: count(engine) >= messages, 60)
        found = engine.query("SELECT count(*) AS n, count(DISTINCT id) AS ids, sum(value) AS s FROM mqtt", database="d")
        assert found.to_pylist() == [{"n": messages, "ids": messages, "s": messages * (messages - 1) / 2}]
        assert count(engine, "mqtt_rejected") == 0


def test_each_message_is_stored_once(tmp_path: Path, broker: Broker) -> None:
    _exactly_once(tmp_path, broker, messages=1000, away=1.0, kills=3)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_each_of_10000_messages_is_stored_once_though_the_broker_is_away_for_a_minute(
    tmp_path: Path, broker: Broker
) -> None:
    _exactly_once(tmp_path, broker, messages=10_000, away=60.0, kills=10)


@pytest.mark.parametrize(
    ("payload", "shape", "message"),
    [
        (b"{", Shape(), "not JSON"),
        (b"[" * 100_000, Shape(), "not JSON"),
        (b"7", Shape(), "an object was expected"),
        (b"{}", Shape(), "no member that could be a field"),
        (b'{"a": null}', Shape(), "no member that could be a field"),
        (b'{"a": 1}', Shape(time="at"), "no member 'at'"),
        (b'{"a": 1, "at": "soon"}', Shape(time="at"), "ISO 8601"),
        (b'{"a": 1, "at": 1e300}', Shape(time="at"), "beyond what can be stored"),
        (b'{"a": 1, "at": NaN}', Shape(time="at"), "not finite"),
        (b'{"a": 1}', Shape(id="id"), "no member 'id'"),
        (b'{"a": 1e999}', Shape(), "not a finite number"),
        (b'{"a": 99999999999999999999}', Shape(floats=False), "beyond 64 bits"),
        (b'{"a":' * 20 + b"1" + b"}" * 20, Shape(), "more than 8 objects"),
        (b"high", Shape(format="value"), "not a number"),
        (b"nan", Shape(format="value"), "not a finite number"),
    ],
)
def test_what_a_payload_cannot_be(payload: bytes, shape: Shape, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        rows_of("a", payload, shape, 1)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
       lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))
       .map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_a_payload_is_it_is_rows_or_unreadable(payload: bytes) -> None:
    for shape in (Shape(), Shape(format="value"), Shape(floats=False, time="a", id="b")):
        try:
            rows = rows_of("a/b", payload, shape, 1)
        except Unreadable:
            continue
        else:
            assert all(row.line.fields for row in rows)


@pytest.mark.parametrize(
    ("pattern", "topic", "tags"),
    [
        ("plant/{site}/+", "plant/north/temp", {"site": "north"}),
        ("plant/{site}/+", "plant/north", {}),
        ("plant/{site}/+", "other/north/temp", {}),
        ("{a}/{b}/#", "x/y/z/w", {"a": "x", "b": "y"}),
        ("{a}/{b}", "x/y/z", {}),
        ("{a}/{b}", "/y", {"b": "y"}),
    ],
)
def test_tags_of_topics(pattern: str, topic: str, tags: dict[str, str]) -> None:
    assert Pattern.parse(pattern).match(topic) == tags


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "'topics' is missing"),
        ({"topics": "a/#/b"}, "last level"),
        ({"topics": "a/b+"}, "alone in its level"),
        ({"topics": "a", "password": "x"}, "needs 'username'"),
        ({"topics": "a", "ca": "x"}, "for TLS"),
        ({"topics": "a", "id": "x", "format": "value"}, "member of json"),
        ({"topics": "a", "topic_tags": "a/+"}, "no level has a name"),
        ({"topics": "a", "topic_tags": "{a}/{a}"}, "there twice"),
        ({"topics": "a", "topic_tags": "{time}"}, "cannot be the name"),
        ({"topics": "a", "topic_tags": "{a}/b+"}, "name in braces"),
        ({"topics": "a", "qos": "2"}, "qos"),
        ({"topics": "a", "port": "0"}, "port"),
    ],
)
def test_bad_settings(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        parse(Mqtt, arguments)
