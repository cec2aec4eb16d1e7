"""The settings of the source."""

from __future__ import annotations

from typing import Literal

from walmill_hookspecs import BadSettings, Duration, Secret, TableName, setting, settings
from walmill_mqtt.payload import Shape
from walmill_mqtt.topics import Pattern


@settings
class Mqtt:
    """Which broker, which topics, and what their messages are."""

    topics: list[str] = setting("what is subscribed to, such as plant/+/temp or plant/#")
    host: str = setting("name or address of the broker", default="localhost")
    port: int = setting("its port", default=1883, minimum=1, maximum=65535)
    tls: bool = setting("whether to speak TLS; the port is 8883 then in most places", default=False)
    ca: str | None = setting("a file with the certificates of authorities, for TLS; else the system's", default=None)
    username: str | None = setting("who logs in", default=None)
    password: Secret | None = setting("the password", default=None)
    client_id: str | None = setting(
        "by which the broker knows this source and keeps its messages; else of database and trigger", default=None
    )
    qos: int = setting("quality of service that is asked for: 0 or 1", default=1, minimum=0, maximum=1)
    keepalive: Duration = setting("how often the broker hears of a source that is silent", default="30s", minimum="1s")
    reconnect: Duration = setting("how long to wait for the next try to connect", default="2s", minimum="10ms")
    format: Literal["json", "line", "value"] = setting(
        "what a payload is: json, an object or a list of them; line, line protocol; value, one number", default="json"
    )
    table: TableName = setting("the table of json and value", default=TableName("mqtt"))
    field: str = setting("the field of value", default="value")
    tags: list[str] = setting("members of json that are tags", default=[])
    topic_tag: str = setting("the tag that holds the topic; none if it is empty", default="topic")
    topic_tags: str | None = setting("tags from levels of the topic, such as plant/{site}/{device}/+", default=None)
    time: str | None = setting(
        "the member of json with the time; else rows have the time at which they came", default=None
    )
    time_unit: Literal["ns", "us", "ms", "s"] = setting("the unit of a time that is a number", default="s")
    numbers: Literal["float", "as_written"] = setting(
        "whether all numbers of json are floats, or those without a point integers", default="float"
    )
    id: str | None = setting("the member of json that names a message: one that came already is left out", default=None)
    remember: Duration = setting("how long the names of messages are remembered", default="10m", minimum="1s")
    rejected: TableName = setting("the table of messages that cannot be stored", default=TableName("mqtt_rejected"))

    def __attrs_post_init__(self) -> None:
        problems = []
        if not self.topics or not all(self.topics):
            problems.append("'topics' needs at least one topic, and none that is empty")
        problems += [f"topics={topic!r}: {wrong}" for topic in self.topics if (wrong := _filter_problem(topic))]
        if self.password is not None and self.username is None:
            problems.append("'password' needs 'username'")
        if self.ca is not None and not self.tls:
            problems.append("'ca' is for TLS: give tls=true")
        if self.id is not None and self.format != "json":
            problems.append(f"'id' names a member of json; the format is {self.format!r}")
        if self.topic_tags is not None:
            try:
                Pattern.parse(self.topic_tags)
            except ValueError as error:
                problems.append(f"topic_tags={self.topic_tags!r}: {error}")
        if problems:
            raise BadSettings("; ".join(problems))

    def shape(self) -> Shape:
        """What messages are."""
        return Shape(
            format=self.format,
            table=str(self.table),
            field=self.field,
            tags=frozenset(self.tags),
            topic_tag=self.topic_tag,
            pattern=None if self.topic_tags is None else Pattern.parse(self.topic_tags),
            time=self.time,
            time_unit=self.time_unit,
            floats=self.numbers == "float",
            id=self.id,
        )


def _filter_problem(topic: str) -> str | None:
    """Why a topic cannot be subscribed to; None if it can (MQTT 3.1.1, 4.7.1)."""
    levels = topic.split("/")
    for place, level in enumerate(levels):
        if "#" in level and (level != "#" or place != len(levels) - 1):
            return "# stands alone, as the last level"
        if "+" in level and level != "+":
            return "+ stands alone in its level"
    return None
