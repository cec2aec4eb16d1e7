"""DataFusion's messages become short sentences of the right kind."""

import pytest

from walmill.errors import Internal, InvalidRequest, NotFound
from walmill.query.errors import NotSupported, TableNotFound, clean, near_names, translate


def translated(error, tables=None):
    return translate(error, catalog="public", schema="iox", tables=tables or {"iox": ["cpu"]}, memory_limit=2**20)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("DataFusion error: Arrow error: Divide by zero error", "Divide by zero error"),
        ("Error during planning: Invalid function 'x'.", "Invalid function 'x'."),
        (
            "DataFusion error: Optimizer rule 'simplify_expressions' failed\ncaused by\nArrow error: Cast error: no",
            "Cast error: no",
        ),
        ("DataFusion error: type_coercion\ncaused by\nError during planning: no", "no"),
        ('SQL error: ParserError("Expected: \\"x\\"")', 'Expected: "x"'),
        ("something else", "something else"),
    ],
)
def test_noise_is_removed(raw, expected):
    assert clean(raw) == expected


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("Error during planning: table 'public.iox.x' not found"), TableNotFound),
        (ValueError("This feature is not implemented: y"), NotSupported),
        (
            Exception("DataFusion error: Internal error: z. This issue was likely caused by a bug in DataFusion"),
            Internal,
        ),
        (Exception("DataFusion error: Execution error: bad regex"), InvalidRequest),
        (BaseException("panicked"), Internal),
        (NotFound("mine"), NotFound),
    ],
)
def test_kinds(error, kind):
    assert type(translated(error)) is kind


def test_near_names():
    assert near_names("cpu", ["CPU", "cpu2", "memory"]) == ["CPU", "cpu2"]
    assert near_names("x", ["memory"]) == []
