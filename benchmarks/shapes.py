"""Bodies of line protocol for the benchmarks: shapes of data, advancing timestamps, no body twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

HOSTS = 1000
START = 1_700_000_000_000_000_000
STEP = 10_000_000_000


class Shape(NamedTuple):
    """A kind of request.

    Attributes:
        name: For the table.
        lines: Lines a request.
        connections: Senders.
        requests: Requests a run.
        templates: Bodies with `%d` in the place of each timestamp; a run takes them in turn.
        bad: Lines of a body that are refused.
    """

    name: str
    lines: int
    connections: int
    requests: int
    templates: list[bytes]
    bad: int = 0

    def bodies(self, round_number: int) -> Iterator[bytes]:
        """The bodies of one run; none of them comes twice, in this round or another."""
        step = START + round_number * self.requests * self.lines * STEP
        for number in range(self.requests):
            template = self.templates[number % len(self.templates)]
            count = template.count(b"%d")
            base = step + number * (1 + count // HOSTS) * STEP
            yield template % tuple([base + place // HOSTS * STEP + place % HOSTS for place in range(count)])


_RANDOM = random.Random(20)
_REGIONS = ["us-east-1", "us-west-2", "eu-central-1", "ap-southeast-1", "sa-east-1"]
_FIELDS = [
    "usage_user",
    "usage_system",
    "usage_idle",
    "usage_nice",
    "usage_iowait",
    "usage_irq",
    "usage_softirq",
    "usage_steal",
    "usage_guest",
    "usage_guest_nice",
]


def _tags(host: int, *, blank: str = "") -> str:
    region = _REGIONS[host % 5]
    return (
        f"hostname=host_{host},region={region},datacenter={region}a,rack={blank}{host % 100},os=Ubuntu16.{blank}10,arch=x64,"
        f"team=SF{blank},service={host % 20},service_version={host % 2},service_environment=production"
    )


def _ints() -> str:
    return ",".join(f"{name}={_RANDOM.randrange(100)}i" for name in _FIELDS)


def wide(host: int) -> str:
    """10 tags, 10 integer fields: about 330 bytes."""
    return f"cpu,{_tags(host)} {_ints()} %d"


def narrow(host: int) -> str:
    """2 tags, 3 float fields."""
    values = ",".join(f"{name}={_RANDOM.random() * 100:.2f}" for name in ("a", "b", "c"))
    return f"mem,host=h{host},dc=d{host % 5} {values} %d"


def escaped(host: int) -> str:
    """The wide shape with escaped spaces in three tags."""
    return f"cpu,{_tags(host, blank=chr(92) + ' ')} {_ints()} %d"


def quoted(host: int) -> str:
    """The wide shape with a string that holds escapes as one of its ten fields."""
    text = f'"job \\"nightly\\" of C:\\\\{_RANDOM.randrange(1000)} is, as = ever, late"'
    return f"cpu,{_tags(host)} {_ints().rsplit(',', 1)[0]},message={text} %d"


def fifty(host: int) -> str:
    """One of fifty tables with their own fields."""
    table = _RANDOM.randrange(50)
    values = ",".join(f"f{table % 7}_{place}={_RANDOM.random() * 1000:.3f}" for place in range(2 + table % 4))
    return f"table_{table},host=host_{host},region={_REGIONS[host % 5]},rack={host % 100} {values},count={host}i %d"


def _template(line: object, count: int, first: int = 0) -> bytes:
    assert callable(line)
    return "\n".join([line((first + place) % HOSTS) for place in range(count)]).encode() + b"\n"


def _odd(template: bytes) -> bytes:
    lines = template.split(b"\n")
    lines[2500] = b"cpu,hostname=host_1 usage_user=12x %d"
    return b"\n".join(lines)


def _new_series(number: int) -> bytes:
    lines = [f"fresh,id=s{number}_{place},dc=d{place % 5} a=1.5,b=2.5,c=3.5 %d" for place in range(5000)]
    return "\n".join(lines).encode() + b"\n"


def shapes(share: float = 1.0) -> dict[str, Shape]:
    """All shapes, by their short names.

    Args:
        share: How long the runs are, against the usual 2 to 4 seconds.
    """

    def count(requests: int) -> int:
        return max(16, int(requests * share))

    plain = [_template(wide, 5000) for _ in range(4)]
    return {
        "wide": Shape("10 tags + 10 fields, 5,000 lines", 5000, 4, count(160), plain),
        "narrow": Shape(
            "2 tags + 3 fields, 5,000 lines", 5000, 4, count(400), [_template(narrow, 5000) for _ in range(4)]
        ),
        "escaped": Shape(
            "wide, escaped spaces in tags", 5000, 4, count(160), [_template(escaped, 5000) for _ in range(4)]
        ),
        "quoted": Shape(
            "wide, quoted strings with escapes", 5000, 4, count(160), [_template(quoted, 5000) for _ in range(4)]
        ),
        "odd": Shape("wide, one malformed line in 5,000", 5000, 4, count(160), [_odd(one) for one in plain], 1),
        "fifty": Shape(
            "50 tables interleaved, 5,000 lines", 5000, 4, count(160), [_template(fifty, 5000) for _ in range(4)]
        ),
        "hundred": Shape(
            "wide, 100 lines", 100, 16, count(6000), [_template(wide, 100, 100 * place) for place in range(10)]
        ),
        "one": Shape("wide, 1 line", 1, 16, count(16000), [_template(wide, 1, place) for place in range(HOSTS)]),
        "fresh": Shape(
            "every line a new series", 5000, 4, count(60), [_new_series(number) for number in range(count(60))]
        ),
    }
