"""What of LeaderWorkerSet's release is changed for a cluster without Services for webhooks."""

from __future__ import annotations

from typing import Any

from e2e.cluster.leaderworkersets import called_by_url


def test_webhooks_are_called_at_an_address() -> None:
    service = {"name": "lws-webhook-service", "namespace": "lws-system"}
    rules = [{"resources": ["pods"], "operations": ["CREATE"]}]
    configuration: dict[str, Any] = {
        "kind": "MutatingWebhookConfiguration",
        "webhooks": [
            {"name": "mpod.kb.io", "clientConfig": {"service": {**service, "path": "/mutate"}}, "rules": rules}
        ],
    }
    crd = {"spec": {"conversion": {"webhook": {"clientConfig": {"service": {**service, "path": "/convert"}}}}}}
    changed = called_by_url(configuration, "https://127.0.0.1:9443", b"CA")["webhooks"][0]
    assert changed == {
        "name": "mpod.kb.io",
        "clientConfig": {"url": "https://127.0.0.1:9443/mutate", "caBundle": "Q0E="},
        "rules": rules,
    }
    conversion = called_by_url(crd, "https://127.0.0.1:9443", b"CA")["spec"]["conversion"]["webhook"]
    assert conversion["clientConfig"]["url"] == "https://127.0.0.1:9443/convert"
    schema = {"properties": {"service": {"type": "object", "properties": {"path": {"type": "string"}}}}}
    assert called_by_url(schema, "https://127.0.0.1:9443", b"CA") == schema
