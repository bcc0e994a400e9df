"""The cluster that a command asks: from kubeconfig, or from inside a pod."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kubernetes.aio import client, config

from spillway.act.kube import Kube


class NoCluster(Exception):
    """There is none to ask (exit status 2), or it does not answer (1); in words for the user."""

    def __init__(self, words: str, status: int) -> None:
        super().__init__(words)
        self.status = status


@asynccontextmanager
async def cluster(context: str | None) -> AsyncIterator[Kube]:
    """The API server of that kubeconfig context, by default of the current one. Raises NoCluster, also when the server
    stops to answer within the block."""
    try:
        configuration = client.Configuration()
        chosen = {"context": context} if context else {}  # in a pod there is none, and none is taken
        with warnings.catch_warnings(action="ignore"):  # its warning says less than we do
            await config.load_config(client_configuration=configuration, **chosen)  # type: ignore[no-untyped-call]
    except (config.ConfigException, TypeError) as error:
        raise NoCluster(f"no cluster to ask: {str(error).rstrip('.')}. Set KUBECONFIG or --context.", 2) from error
    async with client.ApiClient(configuration) as api:
        try:
            yield Kube(api)
        except (OSError, TimeoutError) as error:
            raise NoCluster(f"{configuration.host} does not answer: {error}", 1) from error
