"""Leadership when the API server does not answer: what the local clock says."""

from __future__ import annotations

from typing import Any

import pytest

from spillway.act.kube import Kube, KubeError
from spillway.controller.lease import LeaderLease


class Silent(Kube):
    """An API server that answers nothing but errors."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def request(self, *_: Any, **__: Any) -> dict[str, Any]:
        raise self.error


@pytest.mark.parametrize("error", [OSError("refused"), TimeoutError(), KubeError(500, "InternalError", "etcd")])
async def test_nobody_leads_on_a_guess(error: Exception) -> None:
    lease = LeaderLease(Silent(error), "spillway-system", "me", 15, 10, 2)
    assert await lease._attempt() is False
    assert not lease.valid
    await lease.release()
    await lease.hold()  # returns at once: there is nothing to hold
