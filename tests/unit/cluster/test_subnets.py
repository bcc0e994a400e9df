"""Clusters side by side, whoever started them."""

from __future__ import annotations

from e2e.cluster.supervisor import own_subnet


def test_two_running_clusters_never_share_addresses() -> None:
    with own_subnet() as first, own_subnet() as second:
        assert first != second
    with own_subnet() as again:
        assert again in (first, second) or again < min(first, second)
