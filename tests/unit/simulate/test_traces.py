from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from e2e.load.traces import recorded_in
from spillway.simulate.economics import Economics
from spillway.simulate.load import scale
from spillway.simulate.traces import BadTrace, Trace, from_prometheus, lines, read, reading

OURS = "t,n,tin,tout\n0,2,300,40\n10,0,0,0\n20,1,50,5\n"
AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:33.4590290,1555,19
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00+00:00,2399,6
2024-05-10 00:00:31.017335+00:00,76,15
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,"Chat""GPT",1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""
BURSTGPT_SESSIONS = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
0.5,7,3.2,ChatGPT,10,20,30,Conversation log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 6755, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 0, "input_length": 7319, "output_length": 490, "hash_ids": [0, 14]}

{"timestamp": 30052, "input_length": 7234, "output_length": 794, "hash_ids": []}
"""
LAYOUTS = {
    "azure-2023": (AZURE_2023, [2, 0, 1], [7988, 0, 1555], [18, 0, 19], [0, 0.052, 29.479069]),
    "azure-2024": (AZURE_2024, [2, 0, 0, 1], [4561, 0, 0, 76], [11, 0, 0, 15], [0, 0.00993, 31.017335]),
    "burstgpt": (
        BURSTGPT,
        [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1],
        [472, 0, 0, 0, 1087, 0, 0, 0, 0, 0, 0, 417],
        [18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 276],
        [0, 40, 113],
    ),
    "burstgpt-sessions": (BURSTGPT_SESSIONS, [1], [10], [20], [0]),
    "mooncake": (MOONCAKE, [2, 0, 0, 1], [14074, 0, 0, 7234], [990, 0, 0, 794], [0, 0, 30.052]),
}


def written(folder: Path, content: str | bytes, name: str = "some.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_our_bins_are_read_as_they_stand(tmp_path: Path) -> None:
    trace = read(written(tmp_path, OURS, "small.csv"))
    assert trace.name == "small"
    assert (trace.arrivals, trace.missing, trace.missing_bins) == (None, None, 0)
    assert trace.requests.tolist() == [2, 0, 1]
    assert trace.input_tokens.tolist() == [300, 0, 50]
    assert trace.output_tokens.tolist() == [40, 0, 5]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dressed", ["plain", "gzip", "blank lines", "windows"])
def test_requests_are_kept_and_summed_by_ten_seconds_from_the_first(tmp_path: Path, layout: str, dressed: str) -> None:
    text, requests, inputs, outputs, seconds = LAYOUTS[layout]
    content = {
        "plain": text.encode(),
        "gzip": gzip.compress(text.encode()),
        "blank lines": f"\n \n{text}\n\n".encode(),
        "windows": b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    }[dressed]
    trace = read(str(written(tmp_path, content, "trace.data")))
    assert trace.requests.tolist() == requests
    assert trace.input_tokens.tolist() == inputs
    assert trace.output_tokens.tolist() == outputs
    assert trace.arrivals is not None
    assert trace.arrivals.seconds == pytest.approx(seconds, abs=1e-6)
    assert len(trace.arrivals) == sum(requests)
    assert trace.arrivals.input_tokens.sum() == sum(inputs)
    assert trace.arrivals.output_tokens.sum() == sum(outputs)


def test_times_without_an_offset_are_utc(tmp_path: Path) -> None:
    rows = "2024-05-10 23:59:55,1,1\n2024-05-11T00:00:05+00:00,1,1\n2024-05-11 02:00:10.5+02:00,1,1\n"
    trace = read(written(tmp_path, f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}"))
    assert trace.arrivals is not None
    assert trace.arrivals.seconds == pytest.approx([0, 10, 15.5], abs=1e-6)


def test_arrivals_can_be_left_out(tmp_path: Path) -> None:
    assert read(written(tmp_path, AZURE_2023), keep_arrivals=False).arrivals is None


def test_requests_logged_a_little_late_are_put_in_order(tmp_path: Path) -> None:
    head = "Timestamp,Model,Request tokens,Response tokens\n"
    trace = read(written(tmp_path, f"{head}100,a,1,9\n130,a,2,8\n95,a,3,7\n"))
    assert trace.arrivals is not None
    assert trace.arrivals.seconds.tolist() == [0, 5, 35]
    assert trace.arrivals.input_tokens.tolist() == [3, 1, 2]
    assert trace.requests.tolist() == [2, 0, 0, 1]


def test_every_trace_of_the_study_is_read_and_scaled() -> None:
    # Where they are not at hand there is nothing to read: they are not part of the repository.
    for path in sorted(recorded_in().glob("*.csv.gz")):
        assert scale(read(path), Economics(), fleet=8).work.mean() == pytest.approx(8)


BAD: dict[str, tuple[str | bytes, list[str]]] = {
    "empty": ("", ["is empty", "known are"]),
    "blank": ("\n \n\t\n", ["is empty"]),
    "only commas": (",,,\n", ["no header"]),
    "no header": ("0,2,300,40\n10,1,2,3\n", ["line 1", "'0,2,300,40'", "no header", "known are"]),
    "other header": ("\nwhen,what\n1,2\n", ["line 2", "'when,what'", "BurstGPT"]),
    "only a header": ("t,n,tin,tout\n", ["no rows"]),
    "only Azure's header": ("TIMESTAMP,ContextTokens,GeneratedTokens\n", ["no rows"]),
    "short row": ("t,n,tin,tout\n0,1,2\n", ["line 2", "column tout", "'0,1,2'", "complete"]),
    "text": ("t,n,tin,tout\n0,1,two,3\n", ["line 2", "column tin", "'two'", "decimal"]),
    "underscore": ("t,n,tin,tout\n0,1,1_0,3\n", ["line 2", "column tin", "'1_0'"]),
    "empty cell": ("t,n,tin,tout\n0,1,,3\n", ["line 2", "column tin", "''"]),
    "negative": ("t,n,tin,tout\n0,-1,2,3\n", ["line 2", "column n", "'-1'", "negative"]),
    "NaN": ("t,n,tin,tout\n0,1,2,nan\n", ["line 2", "column tout", "'nan'", "finite"]),
    "infinite": ("t,n,tin,tout\n0,1,2,inf\n", ["column tout", "'inf'", "finite"]),
    "backwards": (OURS + "10,1,1,1\n", ["line 5", "column t", "'10'", "should be 30"]),
    "gap": (OURS + "50,1,1,1\n", ["line 5", "column t", "'50'", "should be 30"]),
    "other bins": ("t,n,tin,tout\n0,1,1,1\n60,1,1,1\n", ["line 3", "'60'", "ten seconds"]),
    "time without end": ("t,n,tin,tout\n1e300,1,1,1\n", ["column t", "'1e300'", "too large"]),
    "requests without end": ("t,n,tin,tout\n0,1e300,1,1\n", ["column n", "1e300", "above"]),
    "tokens without end": ("t,n,tin,tout\n0,1,1e300,1\n", ["column tin", "1e300", "above"]),
    "quote": ('t,n,tin,tout\n0,"1,2,3\n', ["no CSV", "quotes"]),
    "lone carriage return": ("t,n,tin,tout\n0,1,2,3\r4\n", ["line 2"]),
    "date": (AZURE_2023 + "yesterday,1,2\n", ["line 5", "column TIMESTAMP", "'yesterday'", "2023-11-16"]),
    "number for a date": (AZURE_2023 + "17.5,1,2\n", ["line 5", "column TIMESTAMP", "'17.5'"]),
    "hours back": (AZURE_2023 + "2023-11-16 16:00:00,1,2\n", ["line 5", "column TIMESTAMP", "sort"]),
    "years on": (AZURE_2023 + "2025-11-16 16:00:00,1,2\n", ["line 5", "column TIMESTAMP", "a year"]),
    "tokens": (AZURE_2023 + "2023-11-16 18:18:00,1,2e9\n", ["line 5", "column GeneratedTokens", "'2e9'", "tokens"]),
    "milliseconds as seconds": (BURSTGPT + "1700000000000,a,1,2,3,x\n", ["line 5", "column Timestamp", "a year"]),
    "no JSON": (MOONCAKE + "{nonsense\n", ["line 5", "no JSON"]),
    "nested JSON": ('{"timestamp": 0}\n' + "[" * 100_000 + "\n", ["line 1", "input_length"]),
    "deeply nested JSON": (MOONCAKE + "[" * 100_000 + "\n", ["line 5", "no JSON"]),
    "JSON list": (MOONCAKE + "[1, 2]\n", ["line 5", "'[1, 2]'", "no JSON object"]),
    "JSON key": (MOONCAKE + '{"timestamp": 1, "input_length": 2}\n', ["line 5", "column output_length"]),
    "JSON true": (
        MOONCAKE + '{"timestamp": true, "input_length": 2, "output_length": 1}\n',
        ["line 5", "column timestamp", "True", "no number"],
    ),
    "JSON null": (
        MOONCAKE + '{"timestamp": 1, "input_length": null, "output_length": 1}\n',
        ["line 5", "column input_length", "None", "no number"],
    ),
    "JSON NaN": (
        MOONCAKE + '{"timestamp": 1, "input_length": NaN, "output_length": 1}\n',
        ["line 5", "column input_length", "nan", "finite"],
    ),
    "JSON digits": (
        MOONCAKE + '{"timestamp": 1' + "0" * 400 + ', "input_length": 1, "output_length": 1}\n',
        ["line 5", "column timestamp", "no number"],
    ),
    "binary": (b"\x93NUMPY\x01\x00v\x00{'descr'", ["line 1", "not UTF-8", "gzipped"]),
    "NUL": (b"t,n,tin,tout\n0,1,2,\x003\n", ["line 2", "not UTF-8"]),
    "half a gzip": (gzip.compress(OURS.encode() * 50)[:40], ["gzip", "again"]),
    "a broken gzip": (gzip.compress(OURS.encode())[:-6] + b"abcdef", ["gzip", "again"]),
    "a gzip of no deflate": (gzip.compress(OURS.encode())[:10] + b"\xff" * 40, ["gzip", "again"]),
    "after blank lines": ("\n\n" + OURS + "\n30,1,x,1\n", ["line 8", "column tin", "'x'"]),
    "JSON after blank lines": ("\n \n" + MOONCAKE + "{\n", ["line 7", "no JSON"]),
    "gzip of binary": (gzip.compress(b"\xff\xfe\xff"), ["not UTF-8"]),
    "gzip of nothing": (gzip.compress(b""), ["is empty"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_the_place_the_value_and_the_fix(tmp_path: Path, case: str) -> None:
    content, words = BAD[case]
    path = written(tmp_path, content)
    with pytest.raises(BadTrace) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert [word for word in words if word not in message] == [], message
    assert len(message) < len(str(path)) + 500


@pytest.mark.parametrize("path", ["/nowhere/at/all.csv", "/", "with\0nul", ""])
def test_what_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(BadTrace, match="path of a trace file"):
        read(path)


@pytest.mark.parametrize(
    ("module", "limit", "value", "content"),
    [
        (lines, "MAXIMUM_LINE_BYTES", 12, OURS),
        (lines, "MAXIMUM_BYTES", 30, OURS),
        (reading, "MAXIMUM_BINS", 2, OURS),
        (reading, "MAXIMUM_REQUESTS", 2, AZURE_2023),
    ],
)
def test_what_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, limit: str, value: int, content: str
) -> None:
    path = written(tmp_path, content)
    read(path)
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(BadTrace, match=r"longer than|more than"):
        read(path)


def damaged(text: str) -> st.SearchStrategy[bytes]:
    """`text` with some stretch of it replaced by what does not belong there."""
    junk = st.sampled_from(
        ["", ",", '"', "\n", "-1", "nan", "inf", "1e400", "1e308", "9" * 400, "{", "}", "[", "null", "true", "\r", "\0"]
    ) | st.text(max_size=5)
    return st.builds(
        lambda begin, length, new: (text[:begin] + new + text[begin + length :]).encode("utf-8", "surrogatepass"),
        st.integers(0, len(text)),
        st.integers(0, 30),
        junk,
    )


ANYTHING = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    *(damaged(text) for text in (OURS, AZURE_2023, AZURE_2024, BURSTGPT, MOONCAKE)),
)


@given(content=ANYTHING | ANYTHING.map(gzip.compress) | ANYTHING.map(lambda raw: gzip.compress(raw)[:-3]))
@example(
    content=b"TIMESTAMP,ContextTokens,GeneratedTokens\n0001-01-01 00:00:00+23:59,1,1\n9999-12-31 23:59:59-23:59,1,1"
)
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_is_either_a_sound_trace_or_a_bad_trace(tmp_path: Path, content: bytes) -> None:
    try:
        trace = read(written(tmp_path, content, "fuzz"))
    except BadTrace as refusal:
        assert str(tmp_path / "fuzz") in str(refusal)
        return
    assert_sound(trace)
    assert trace.missing is None


def assert_sound(trace: Trace) -> None:
    assert len(trace) > 0
    for column in (trace.requests, trace.input_tokens, trace.output_tokens):
        assert column.shape == trace.requests.shape
        assert column.dtype == np.float64
        assert np.isfinite(column).all() and (column >= 0).all()
    if trace.arrivals is not None:
        seconds = trace.arrivals.seconds
        assert seconds[0] == 0 and (np.diff(seconds) >= 0).all()
        assert len(trace) == int(seconds[-1] // 10) + 1
        assert trace.requests.sum() == len(trace.arrivals)


Rates = list[tuple[float, float | str]]


def prometheus(requests: Rates, step: float = 10.0, inputs: Rates | None = None, outputs: Rates | None = None) -> Trace:
    return from_prometheus(
        "chat",
        requests_per_second=requests,
        input_tokens_per_second=requests if inputs is None else inputs,
        output_tokens_per_second=requests if outputs is None else outputs,
        step_seconds=step,
    )


def test_a_rate_stands_for_the_step_that_ends_with_it() -> None:
    trace = prometheus([(1000, "2"), (1010, "3.5"), (1020, 0)], inputs=[(1000, 200), (1010, 350), (1020, 0)])
    assert trace.requests.tolist() == [20, 35, 0]
    assert trace.input_tokens.tolist() == [2000, 3500, 0]
    assert trace.missing is None


@pytest.mark.parametrize("step", [1.0, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0])
def test_any_step_keeps_the_sum(step: float) -> None:
    samples: Rates = [(1e9 + at * step, str(at % 7)) for at in range(int(600 / step))]
    trace = prometheus(samples, step)
    assert len(trace) == 60
    assert trace.requests.sum() == pytest.approx(step * sum(float(value) for _, value in samples))


def test_coarse_steps_fill_their_bins_and_fine_ones_are_summed() -> None:
    assert prometheus([(30, 1), (60, 2)], step=30).requests.tolist() == [10, 10, 10, 20, 20, 20]
    assert prometheus([(5, 1), (10, 2), (15, 4), (20, 4)], step=5).requests.tolist() == [15, 40]
    assert prometheus([(15, 1), (30, 3)], step=15).requests.tolist() == [10, 20, 30]


def test_samples_closer_than_the_step_stand_for_what_lies_between_them() -> None:
    assert prometheus([(10, 1), (14, 5), (20, 2)]).requests == pytest.approx([10, 4 * 5 + 6 * 2])


@pytest.mark.parametrize("gap", [[], [(40, "NaN"), (50, float("nan"))]])
def test_what_nobody_measured_is_marked_and_counts_as_no_demand(gap: Rates) -> None:
    good: Rates = [(at, 1) for at in (10, 20, 30, 40, 50, 60)]
    trace = prometheus(good, outputs=[(10, 2), (20, 2), (30, 2), *gap, (60, 2)])
    assert trace.missing is not None
    assert trace.missing.tolist() == [False, False, False, True, True, False]
    assert trace.missing_bins == 2
    assert trace.requests.tolist() == [10, 10, 10, 0, 0, 10]
    assert trace.output_tokens.tolist() == [20, 20, 20, 0, 0, 20]


def test_a_bin_known_in_part_stands_for_all_of_it() -> None:
    trace = prometheus([(5, 1), (10, 1), (15, 1), (20, "NaN"), (25, "NaN"), (30, 1), (36, 3)], step=5)
    assert trace.requests == pytest.approx([10, 10, 10, 30])
    assert trace.missing_bins == 0


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([], "no samples"),
        ([(10, 1), (10, 2)], "sample 1: time 10.0 does not rise"),
        ([(10, 1), (5, 2)], "does not rise"),
        ([(float("nan"), 1)], "does not rise"),
        ([(10, -1)], "sample 0: -1.0 is no rate"),
        ([(10, "+Inf")], "inf is no rate"),
        ([(10, "many")], "no pair of time and number"),
        ([(10, None)], "no pair"),
        ([(10,)], "no pair"),
        ([7], "no pair"),
        ([(0, 1), (1e12, 1)], "over a year"),
    ],
)
def test_what_prometheus_cannot_have_said_is_refused(samples: Rates, words: str) -> None:
    with pytest.raises(BadTrace, match=words.replace("+", r"\+")) as caught:
        prometheus(samples)
    assert str(caught.value).startswith("chat: ")


@pytest.mark.parametrize("step", [0.0, -10.0, float("nan"), float("inf")])
def test_a_step_that_is_none_is_refused(step: float) -> None:
    with pytest.raises(BadTrace, match="step"):
        prometheus([(10, 1)], step)


SAMPLES = st.lists(
    st.tuples(
        st.integers(0, 2000).map(float) | st.floats(),
        st.floats(0, 1e9) | st.sampled_from(["NaN", "1", "x", "+Inf", "-2"]) | st.floats(),
    ),
    max_size=20,
).map(lambda samples: sorted(samples, key=lambda sample: sample[0]))


@given(samples=st.lists(SAMPLES, min_size=3, max_size=3), step=st.sampled_from([1.0, 10.0, 15.0, 60.0]) | st.floats())
@settings(max_examples=300, deadline=None)
def test_series_are_either_a_sound_trace_or_a_bad_trace(samples: list[Rates], step: float) -> None:
    try:
        trace = prometheus(samples[0], step, samples[1], samples[2])
    except BadTrace:
        return
    assert_sound(trace)
    if trace.missing is not None:
        assert (trace.requests[trace.missing] == 0).all()
