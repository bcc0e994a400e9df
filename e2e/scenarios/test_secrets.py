"""Prompts and keys: after local, spilled and malformed requests no output of Spillway's own pods holds any, nor any
object of the API server but the Secrets that are for them."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request

from e2e.cluster.settings import SYSTEM_NAMESPACE
from e2e.stage import NAMESPACE, Stage, providers

PROMPT = "marked-prompt-7f3a51"
OBJECTS = "all,configmaps,events,leases,moedeployments,gpupools,externalproviders,costpolicies"
SECRETS = ("spillway-ads-authority", "spillway-ads-gateway", "spillway-provider-keys")


def test_prompts_and_keys_are_in_no_output(play: Stage) -> None:
    spec = {"model": {"name": "glm-5"}, "spill": {"providers": [{"name": "zai", "model": "glm-5"}]}}
    play.apply(play.moe("glm-5", spec))
    play.wait("an answer while replicas start", lambda: play.ask("glm-5", PROMPT).status == 200, 60)
    play.wait_ready("glm-5")
    assert play.ask("glm-5", PROMPT).status == 200
    malformed = urllib.request.Request(
        f"{play.urls()[0]}/v1/chat/completions", data=f'{{"{PROMPT}'.encode(), headers={"Host": f"glm-5.{NAMESPACE}"}
    )
    try:
        urllib.request.urlopen(malformed, timeout=30)
    except urllib.error.HTTPError as error:
        assert 400 <= error.code < 600

    secrets = {name: play.get("secret", name, SYSTEM_NAMESPACE) or {} for name in SECRETS}
    keys = [base64.b64decode(secret["data"]["tls.key"]).decode() for name, secret in secrets.items() if "ads" in name]
    marks = [PROMPT, "BEGIN PRIVATE KEY", *(key.splitlines()[1] for key in keys), *(p.api_key for p in providers())]
    marks += [base64.b64encode(p.api_key.encode()).decode() for p in providers()]

    outputs = {"objects": play.cluster.kubectl("get", OBJECTS, "-A", "-o", "json").stdout}
    for pod in play.objects("pods", SYSTEM_NAMESPACE):
        name = pod["metadata"]["name"]
        outputs[name] = play.cluster.kubectl("logs", name, "-n", SYSTEM_NAMESPACE).stdout
    assert sum("operator" in name for name in outputs) == 2 and sum("gateway" in name for name in outputs) >= 2
    assert '"leading"' in "".join(outputs.values())
    assert [(where, mark[:20]) for where, text in outputs.items() for mark in marks if mark in text] == []
    assert json.loads(outputs["objects"])["items"]
