from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spillway.gateway.desired import Desired
from tests.integration.gateway.fakes import Fake
from tests.integration.gateway.rig import PROVIDER_PORT, Rig, deployment, egress, provider, spill


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig.create(tmp_path)
    try:
        yield rig
    finally:
        await rig.stop()


@pytest.fixture
async def shared(rig: Rig) -> tuple[Rig, Fake]:
    """A deployment without replicas, so that everything goes to one provider."""
    zai, address = await rig.fake("zai", PROVIDER_PORT)
    pair = ("zai", 'odd "model".1')
    (rig.directory / "keys" / "zai").write_text("sk")
    out = egress(*pair, cap=100, max_choices=2, drop_fields=("top_k",))
    await rig.publish(
        Desired((deployment(chain=(pair,)),), (provider("zai", address),), (out,), {"chat/glm-5": spill(pair)})
    )
    await rig.start_envoy()
    return rig, zai
