"""Events on a real API server: said once, shown at the object."""

from __future__ import annotations

import json
from typing import Any

from spillway.act.events import BURST, EventRecorder

from .conftest import Place

Object = dict[str, Any]


async def regarding(place: Place) -> Object:
    """Some object with a uid."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "glm-5", "namespace": place.namespace}}
    return await place.kube.apply(body)


def events(place: Place) -> list[Object]:
    done = place.server.kubectl("get", "events.events.k8s.io", "-n", place.namespace, "-o", "json")
    assert done.returncode == 0, done.stderr
    found: list[Object] = json.loads(done.stdout)["items"]
    return found


async def test_the_same_words_are_said_once(place: Place) -> None:
    recorder, obj = EventRecorder(place.kube, "operator-0"), await regarding(place)
    for _ in range(3):
        await recorder.record(obj, "DemandRose", "1→2 replicas")
    [event] = events(place)
    assert (event["reason"], event["note"], event["type"]) == ("DemandRose", "1→2 replicas", "Normal")
    assert event["regarding"]["uid"] == obj["metadata"]["uid"]
    assert event["reportingInstance"] == "operator-0"


async def test_other_words_reasons_and_objects_are_said_too(place: Place) -> None:
    recorder, obj = EventRecorder(place.kube, "operator-0"), await regarding(place)
    await recorder.record(obj, "DemandRose", "1→2 replicas")
    await recorder.record(obj, "DemandRose", "2→3 replicas")
    await recorder.record(obj, "NoGPU", "2→3 replicas", "Warning")
    other = {**obj, "metadata": {**obj["metadata"], "uid": "another"}}
    await recorder.record(other, "DemandRose", "1→2 replicas")
    assert len(events(place)) == 4
    assert {e["type"] for e in events(place)} == {"Normal", "Warning"}


async def test_kubectl_describe_shows_them(place: Place) -> None:
    obj = await regarding(place)
    await EventRecorder(place.kube, "operator-0").record(obj, "PoolOutOfCapacity", "no GPUs", "Warning")
    told = place.server.kubectl("describe", "configmap", "glm-5", "-n", place.namespace).stdout
    assert "PoolOutOfCapacity" in told
    assert "no GPUs" in told


async def test_one_object_cannot_flood_the_api_server(place: Place) -> None:
    recorder, obj = EventRecorder(place.kube, "operator-0"), await regarding(place)
    for number in range(BURST + 5):
        await recorder.record(obj, "DemandRose", f"message {number}")
    assert len(events(place)) == BURST


async def test_a_long_message_is_cut_and_a_refused_event_stops_nothing(place: Place) -> None:
    recorder, obj = EventRecorder(place.kube, "operator-0"), await regarding(place)
    await recorder.record(obj, "InvalidSpec", "x" * 5000, "Warning")
    assert len(events(place)[0]["note"]) == 1000
    gone = {**obj, "metadata": {**obj["metadata"], "namespace": "no-such-namespace"}}
    await recorder.record(gone, "InvalidSpec", "words")
