from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from e2e.load import traces


def write(folder: Path, text: str) -> None:
    with gzip.open(folder / "small.csv.gz", "wt") as file:
        file.write(text)


def test_a_recorded_trace_is_read_and_begins_at_zero(tmp_path: Path) -> None:
    write(tmp_path, "t,n,tin,tout\n100,2,300,40\n110,0,0,0\n120,1,50,5\n")
    trace = traces.load("small", directory=tmp_path)
    assert trace.recorded
    assert [each.start for each in trace.bins] == [0.0, 10.0, 20.0]
    assert (trace.requests, trace.seconds) == (3, 30.0)


def test_the_setting_names_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "t,n,tin,tout\n0,2,300,40\n")
    monkeypatch.setenv("SPILLWAY_TRACES", str(tmp_path))
    assert traces.load("small").recorded


@pytest.mark.parametrize("text", ["t,n\n0,2\n", "t,n,tin,tout\n"])
def test_a_file_that_is_no_trace_is_an_error(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ValueError, match=r"small\.csv\.gz"):
        traces.load("small", directory=tmp_path)


def test_an_absent_trace_is_generated_and_says_so(tmp_path: Path) -> None:
    trace = traces.load("azure23_conv", directory=tmp_path, seed=4)
    assert not trace.recorded
    assert "generated" in trace.origin
    assert "SPILLWAY_TRACES" in trace.origin
    assert trace == traces.load("azure23_conv", directory=tmp_path, seed=4)
    assert trace != traces.load("azure23_conv", directory=tmp_path, seed=5)


def test_the_generator_keeps_its_promises() -> None:
    trace = traces.generate("g", seed=1, seconds=36_000, requests_per_second=5.5)
    assert trace.seconds == 36_000
    rate = trace.requests / trace.seconds
    assert 5.0 < rate < 7.0
    assert 1000 < sum(b.prompt_tokens for b in trace.bins) / trace.requests < 1300
    assert 190 < sum(b.output_tokens for b in trace.bins) / trace.requests < 235
    spiky = traces.generate("g", seed=1, seconds=36_000, burst_cv=1.2)
    assert variation([b.requests for b in spiky.bins]) > 1.5 * variation([b.requests for b in trace.bins])


def variation(counts: list[int]) -> float:
    mean = sum(counts) / len(counts)
    return float((sum((c - mean) ** 2 for c in counts) / len(counts)) ** 0.5 / mean)
