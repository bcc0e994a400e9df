"""One cluster for all scenarios; each begins on an empty stage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.stage import Stage, stage


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory: Path = tmp_path_factory.mktemp("cluster") / "scenarios"
    with stage(directory) as found:
        yield found


@pytest.fixture
def play(_cluster: Stage) -> Iterator[Stage]:
    """The stage, with both pools, both providers and a large budget; cleared afterwards."""
    _cluster.platform()
    yield _cluster
    _cluster.clear()
