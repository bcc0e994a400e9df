"""One cluster for all scenarios; each begins on an empty stage, and none is refused anything by the API server.

`--cluster local` (default) or `--cluster kind` says where. A scenario marked `only("local")` or `only("kind")` is
deselected on the other: it needs what only that one has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.stage import Stage, stage


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cluster", choices=["local", "kind"], default="local", help="where the scenarios are played")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    cluster = config.getoption("--cluster")
    elsewhere = [item for item in items for mark in item.iter_markers("only") if cluster not in mark.args]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


@pytest.fixture(scope="session")
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The one cluster of this run, with Spillway on it and nothing else."""
    directory: Path = tmp_path_factory.mktemp("cluster") / "scenarios"
    with stage(request.config.getoption("--cluster"), directory) as found:
        yield found


@pytest.fixture
def play(installed: Stage) -> Iterator[Stage]:
    """The stage, with both pools, both providers and a large budget; cleared afterwards.

    What Spillway's accounts asked of the API server meanwhile must have been allowed.
    """
    installed.platform()
    yield installed
    installed.clear()
    assert installed.refused() == []
