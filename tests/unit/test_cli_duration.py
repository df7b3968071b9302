import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_cli.duration import exact_span, seconds, span


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10", 10.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("0", 0.0),
        ("500ms", 0.5),
        ("30s", 30.0),
        ("10m", 600.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("1.5h", 5400.0),
    ],
)
def test_durations(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1", "+1", "1 s", " 1", "1y", "1e3", "inf", "nan", "1m30s", "\u0661", "1.2.3", "."],
)
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="is no duration; write"):
        seconds(text)


@given(st.integers(min_value=1, max_value=10**6))
def test_an_exact_span_reads_back(whole):
    assert seconds(exact_span(float(whole))) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(-1, "0s"), (0, "0s"), (59.4, "59s"), (60, "1m"), (7199, "1h"), (90061, "1d"), (9e6, "104d")],
)
def test_span(duration_s, text):
    assert span(duration_s) == text
