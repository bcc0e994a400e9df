"""Scenarios: what is read, what is refused with which words, and the world that comes of it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from spillway.api import CostPolicy, ExternalProvider, GPUPool
from spillway.build import BuildSettings
from spillway.catalog import load
from spillway.decide.snapshot import Settings
from spillway.ledger import Book
from spillway.observe.money import assess
from spillway.observe.resolve import Resolved, resolve, valid
from spillway.observe.snapshot import ProviderHealth, take
from spillway.simulate.cluster import Cluster
from spillway.simulate.pilots import SpillwayPilot
from spillway.simulate.scenario import BadScenario, Scenario, assemble, parse_text, read
from spillway.simulate.scenario_world import TIMING, build
from spillway.simulate.staged import document, run, totals
from spillway.simulate.study import UnknownPolicy

REPOSITORY = Path(__file__).resolve().parents[3]
SAMPLE = REPOSITORY / "docs/simulate/two-models.yaml"
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all(SAMPLE.read_text()))
KINDS = [d["kind"] for d in DOCUMENTS]
GLM, R1, B200, H200, ZAI, DEEPINFRA, POLICY, SIMULATION = range(8)


def changed(at: int, path: str, value: object) -> list[dict[str, Any]]:
    """The sample with one value replaced, or taken away (None)."""
    documents = copy.deepcopy(DOCUMENTS)
    *steps, last = path.split(".")
    node: Any = documents[at]
    for step in steps:
        node = node[int(step)] if step.isdigit() else node.setdefault(step, {})
    if value is None:
        del node[last]
    else:
        node[int(last) if last.isdigit() else last] = value
    return documents


def scenario(documents: list[dict[str, Any]], directory: Path = Path()) -> Scenario:
    return assemble((d, "scenario", directory) for d in documents)


def short(**changes: object) -> list[dict[str, Any]]:
    """Two hours of the sample."""
    documents = changed(SIMULATION, "spec.days", None)
    documents[SIMULATION]["spec"] |= {"hours": 2, **changes}
    return documents


TENANTS = {"deployments": {"chat/glm-5": {"synthetic": {"tenants": 100}}, "search/deepseek-r1": {"synthetic": {}}}}


def test_the_sample_is_what_the_operator_would_make_of_it() -> None:
    stage = build(read([SAMPLE]))
    world = stage.world
    assert [d.key for d in world.deployments] == ["chat/glm-5", "search/deepseek-r1"]
    glm, r1 = world.deployments
    assert [(v.pool, v.precision, v.gpus_per_replica) for v in glm.variants] == [
        ("blackwell-b200", "NVFP4", 4),
        ("hopper-h200", "FP8", 8),
    ]
    assert glm.variants[0].usd_per_hour == pytest.approx(4 * 4.20)
    assert (glm.providers, glm.barred) == (("zai/glm-5", "deepinfra/glm-5"), ())
    assert (glm.usd_value_per_request, r1.max_replicas) == (0.02, 8)
    assert {p.name: p.gpus for p in world.pools} == {"blackwell-b200": 16, "hopper-h200": 24}
    assert world.pools[0].stock_outs == ((115_200.0, 122_400.0),)
    zai = next(p for p in world.providers if p.name == "zai/glm-5")
    assert (zai.usd_per_million_output, zai.concurrent, zai.outages) == (3.20, 64, ((216_000.0, 223_200.0),))
    month, day = world.budgets
    assert (month.key, month.scope, month.period, month.paced, month.to_floor) == (
        "assist/month",
        "Total",
        "Month",
        True,
        True,
    )
    assert (day.key, day.usd, day.time_zone) == ("assist/api-day", 600, "Europe/Berlin")
    assert month.deployments == frozenset({"chat/glm-5", "search/deepseek-r1"})
    assert len(glm.traffic) == 7 * 8640
    assert stage.economics["chat/glm-5"].usd_per_million_output == 3.20


def test_single_requests_are_those_of_the_file_or_drawn_of_its_bins(tmp_path: Path) -> None:
    rows = "".join(f"2024-05-10 00:{n // 10:02}:{n % 10 * 6:02},{1000 + n},{n % 7}\n" for n in range(600))
    (tmp_path / "azure.csv").write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")
    demand = {
        "chat/glm-5": {"trace": "azure.csv"},
        "search/deepseek-r1": {"synthetic": {"requestsPerSecond": 5}},
    }
    providers = {"zai": {"firstToken": "2s", "tokensPerSecond": 50}}
    documents = short(deployments=demand, hours=0.5, providers=providers)
    stage = build(scenario(documents, tmp_path), single=True)
    assert stage.requests is not None
    glm, r1 = (stage.requests[key] for key in demand)
    assert glm.seconds.tolist() == [6.0 * n for n in range(300)], "half of the hour"
    assert glm.input_tokens.tolist() == [1000.0 + n for n in range(300)]
    assert len(r1) == pytest.approx(5 * 1800, rel=0.5)
    for spec, found in zip(stage.world.deployments, (glm, r1), strict=True):
        index = (found.seconds // 10).astype(int)
        assert spec.traffic.requests.tolist() == np.bincount(index, minlength=180).tolist()
        sums = np.bincount(index, weights=found.output_tokens, minlength=180)
        assert spec.traffic.output_tokens == pytest.approx(sums)
    zai = next(p for p in stage.world.providers if p.api == "zai")
    assert (zai.first_token_seconds, zai.tokens_per_second) == (2.0, 50.0)
    assert build(scenario(documents, tmp_path)).requests is None


def test_more_single_requests_than_are_played_are_refused() -> None:
    many = {"synthetic": {"requestsPerSecond": 500, "arrivalCV": 1, "spikesPerDay": 0, "peakToTrough": 1}}
    documents = short(deployments={"chat/glm-5": many, "search/deepseek-r1": many})
    with pytest.raises(BadScenario, match=r"8,\d\d\d,\d\d\d requests; at most 5,000,000 .*: set fewer spec\.hours"):
        build(scenario(documents), single=True)


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        (DOCUMENTS[:-1], "there is no Simulation"),
        ([*DOCUMENTS, DOCUMENTS[-1]], "a second Simulation"),
        ([*DOCUMENTS, DOCUMENTS[0]], "MoEDeployment chat/glm-5 is there twice"),
        (changed(SIMULATION, "spec.dayz", 3), "spec.dayz is not known: use one of begin, days, hours"),
        (changed(SIMULATION, "spec.days", "many"), "spec.days is 'many'"),
        (changed(SIMULATION, "spec.days", 400), "spec.days is 400"),
        (changed(SIMULATION, "spec.hours", 4), "days and hours are both given"),
        (changed(SIMULATION, "spec.begin", "2026-04-01T00:00:00"), "has no time zone"),
        (changed(SIMULATION, "spec.begin", "0001-01-01T00:00:00+14:00"), "out of range in UTC"),
        (changed(SIMULATION, "spec.seed", -1), "spec.seed is -1"),
        (changed(SIMULATION, "spec.tick", "10"), "'10' is not a duration"),
        (changed(SIMULATION, "spec.faults.delayCv", 1), "spec.faults.delayCv is not known: use one of delayCV"),
        (changed(SIMULATION, "spec.faults.metricsLost", [{"from": "3h", "to": "2h"}]), "from must come first"),
        (changed(SIMULATION, "spec.deployments.chat/glm-6", {"synthetic": {}}), "names 'chat/glm-6': the files have"),
        (changed(SIMULATION, "spec.deployments.chat/glm-5", None), "MoEDeployment chat/glm-5 has no demand"),
        (changed(SIMULATION, "spec.deployments.chat/glm-5.trace", "x"), "give either trace: FILE or synthetic"),
        (changed(SIMULATION, "spec.deployments.chat/glm-5.fleets", 2), "fleets is not known: use one of trace"),
        (changed(SIMULATION, "spec.deployments.chat/glm-5.synthetic", {"peak": 1}), "'peak' is not known: use one of"),
        (
            changed(SIMULATION, "spec.deployments.chat/glm-5.synthetic", {"peakToTrough": 0.5}),
            "peakToTrough is 0.5; a peak is at least its trough",
        ),
        (
            changed(SIMULATION, "spec.deployments.chat/glm-5.synthetic", {"tenants": 1e9}),
            "tenants is 1000000000.0: give a number from 0 to 100",
        ),
        (changed(SIMULATION, "spec.pools.b300", {}), "spec.pools names 'b300': the files have blackwell-b200"),
        (changed(SIMULATION, "spec.providers.openai", {}), "spec.providers names 'openai'"),
        (changed(SIMULATION, "apiVersion", "v1"), "api"),
        (changed(GLM, "spec.minReplica", 2), "MoEDeployment glm-5: spec.minReplica is not known"),
        (changed(GLM, "spec.minReplicas", 99), "minReplicas is 99 and maxReplicas is 12"),
        (changed(GLM, "metadata.name", "GLM"), "metadata.name is 'GLM'"),
        (changed(GLM, "metadata.labels", {"a": 1}), "metadata.labels.a is 1"),
        (changed(GLM, "metadata", []), "metadata.name is None"),
        (changed(GLM, "kind", "MoeDeployment"), "'MoeDeployment' is not known: there are MoEDeployment"),
        (changed(GLM, "apiVersion", "spillway.dev/v1"), "'spillway.dev/v1' 'MoEDeployment' is not known"),
        (changed(POLICY, "spec.budgets.0.amount", 1.5), "spec.budgets[0].amount is 1.5"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_fix(documents: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(BadScenario) as told:
        scenario(documents)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        (changed(GLM, "spec.model.name", "glm-99"), "MoEDeployment chat/glm-5: UnknownModel"),
        (changed(GLM, "spec.placement.variants", [{"pool": "a100", "precision": "FP8"}]), "no GPUPool 'a100'"),
        (changed(GLM, "spec.spill.providers.0.name", "openai"), "no such ExternalProvider (there are: deepinfra, zai)"),
        (changed(GLM, "spec.spill.providers.0.model", "gpt"), "does not offer 'gpt' (it offers: glm-5)"),
        (changed(B200, "spec.capacity", None), "set spec.capacity.maxGPUs, or spec.pools.blackwell-b200.gpus"),
        (changed(POLICY, "spec.timeZone", "Europe/Atlantis"), "Europe/Atlantis"),
        (changed(SIMULATION, "spec.deployments.chat/glm-5", {"trace": "none.csv"}), "deployments.chat/glm-5: none.csv"),
        (
            changed(SIMULATION, "spec", {**TENANTS, "days": 92}),
            "deployments.chat/glm-5: synthetic: 100 tenants over so many days",
        ),
        (
            changed(SIMULATION, "spec.providers.deepinfra", {"priceChanges": [{"at": "1h", "input": 1, "output": 2}]}),
            "spec.providers.deepinfra.priceChanges: model is None: use one of glm-5, deepseek-r1",
        ),
    ],
)
def test_what_the_operator_would_refuse_is_refused_with_its_words(documents: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(BadScenario) as told:
        build(scenario(documents))
    assert words in str(told.value)


@pytest.mark.parametrize(
    "documents",
    [
        DOCUMENTS,
        changed(POLICY, "spec.valuePerRequest", None),
        changed(POLICY, "spec.suspend", True),
        changed(POLICY, "spec.budgets", [{"name": "gpus", "period": "Day", "amount": "500", "scope": "GPU"}]),
        changed(POLICY, "spec.budgets.1.amount", "0.01"),  # less than one request may cost
        changed(ZAI, "spec.suspend", True),
        changed(DEEPINFRA, "spec.allowedNamespaces", ["search"]),
        changed(GLM, "spec.replicas", 2),
        changed(GLM, "spec.placement", None),
        changed(B200, "spec.price.billing", "Reserved"),
        changed(B200, "spec.maxGPUsPerNamespace", 8),
    ],
)
def test_the_plan_sees_what_the_operators_would(documents: list[dict[str, Any]]) -> None:
    """Both snapshots of a cluster on which nothing runs yet and nobody asked."""
    read_in = scenario(documents)
    objects, now = read_in.objects, read_in.simulation.begin
    pools, providers = valid(GPUPool, objects.gpupools), valid(ExternalProvider, objects.externalproviders)
    policies = valid(CostPolicy, objects.costpolicies)
    resolved = [resolve(obj, pools, objects, load(), BuildSettings()) for obj in objects.moedeployments.values()]
    found = [one for one in resolved if isinstance(one, Resolved)]
    moes = [one.moe for one in found]
    money = assess(Book(), policies, moes, providers, objects, {}, {}, Decimal(0), now, TIMING)
    real = take(now.timestamp(), found, objects, pools, providers, policies, None, money, ProviderHealth(), Settings())

    world = build(read_in).world
    cluster = Cluster(replace(world, deployments=tuple(replace(d, ready_at_begin=0) for d in world.deployments)))
    ours = SpillwayPilot(world).snapshot(cluster, {a.budget.key: a.left_usd for a in cluster.accounts})
    for one, other in zip(ours.deployments, real.deployments, strict=True):
        same = ("key", "variants", "min_replicas", "max_replicas", "pinned_replicas", "queue_seconds", "policies")
        for name in (*same, "max_share", "max_share_of", "usd_value_per_request", "demand", "floor_only"):
            assert getattr(one, name) == getattr(other, name), name
        for mine, theirs in zip(one.providers, other.providers, strict=True):
            assert replace(mine, affordable_in_flight=0) == replace(theirs, affordable_in_flight=0)
            assert (mine.affordable_in_flight > 0) == (theirs.affordable_in_flight > 0)
    assert ours.time == real.time
    assert [replace(b, remaining=Decimal(0)) for b in ours.budgets] == [
        replace(b, remaining=Decimal(0)) for b in real.budgets
    ]
    for mine_pool, real_pool in zip(ours.pools, real.pools, strict=True):
        # An operator knows of reserved GPUs by their nodes, of which there are none yet.
        assert replace(mine_pool, used_by_namespace={}, reserved_gpus=0) == replace(real_pool, reserved_gpus=0)


def test_a_trace_lies_beside_the_file_and_must_be_long_enough(tmp_path: Path) -> None:
    rows = "".join(f"{t * 10},5,8000,1000\n" for t in range(720))
    (tmp_path / "two-hours.csv").write_text("t,n,tin,tout\n" + rows)
    documents = short(days=None)
    documents[SIMULATION]["spec"]["deployments"]["chat/glm-5"] = {"trace": "two-hours.csv"}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(documents))
    (tmp_path / "notes.txt").write_text("not YAML: [")
    stage = build(read([tmp_path]))
    assert stage.world.deployments[0].traffic.requests.sum() == pytest.approx(3600, rel=0.02)
    documents[SIMULATION]["spec"]["hours"] = 3
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(documents))
    with pytest.raises(BadScenario, match=r"has 0\.0833 days and 0\.125 are asked for"):
        build(read([tmp_path]))


def test_who_may_not_spill_does_not() -> None:
    suspended = changed(ZAI, "spec.suspend", True)
    assert {b.provider: b.reason for b in build(scenario(suspended)).world.deployments[0].barred} == {
        "zai/glm-5": "ProviderNotReady"
    }
    stranger = build(scenario(changed(DEEPINFRA, "spec.allowedNamespaces", ["chat"]))).world.deployments[1]
    assert [b.reason for b in stranger.barred] == ["NamespaceNotAllowed"]
    assert stranger.usable == ()
    poor = build(scenario(changed(POLICY, "spec.selector.namespaces", ["chat"]))).world
    assert [b.reason for b in poor.deployments[1].barred] == ["NoBudget"]
    assert poor.budgets[0].deployments == frozenset({"chat/glm-5"})
    assert poor.deployments[1].usd_value_per_request is None
    stopped = build(scenario(changed(POLICY, "spec.suspend", True))).world
    assert {b.reason for d in stopped.deployments for b in d.barred} == {"Suspended"}


def test_a_policy_selects_namespaces_by_the_labels_of_their_objects() -> None:
    documents = changed(POLICY, "spec.selector", {"namespaceSelector": {"matchLabels": {"tier": "gold"}}})
    gold = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "search", "labels": {"tier": "gold"}}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}}
    stage = build(scenario([{"apiVersion": "v1", "kind": "List", "items": [gold, secret]}, *documents]))
    assert stage.world.budgets[0].deployments == frozenset({"search/deepseek-r1"})
    assert any("'Secret' keys" in note for note in stage.notes)


def test_a_shortened_sample_plays() -> None:
    """Everything at once: stock-out, outage, a price change, a quota, lost metrics; and money that holds."""
    documents = short(
        pools={"blackwell-b200": {"stockOuts": [{"from": "20m", "to": "50m"}]}},
        providers={
            "zai": {"outages": [{"from": "30m", "to": "40m"}], "requestsPerMinute": 30},
            "deepinfra": {"priceChanges": [{"at": "1h", "model": "glm-5", "input": "6.00", "output": "20.80"}]},
        },
        faults={"delayCV": 0.3, "startFailureShare": 0.1, "metricsLost": [{"from": "90m", "to": "95m"}]},
        begin="2026-03-31T23:00:00+02:00",
    )
    documents[POLICY]["spec"]["budgets"][1]["amount"] = "20"
    documents[GLM]["spec"]["minReplicas"] = 1
    stage = build(scenario(documents))
    first, again = run(stage, "spillway"), run(stage, "spillway")
    assert document(first) == document(again)
    told = document(first)
    json.dumps(told)
    assert {t["from"] for b in told["budgets"] for t in b["periods"]} == {
        "2026-02-28T23:00:00Z",  # March began in winter time
        "2026-03-30T22:00:00Z",
        "2026-03-31T22:00:00Z",
    }
    external = sum(p["spent"] for p in told["budgets"][1]["periods"])
    total = sum(p["spent"] for p in told["budgets"][0]["periods"])
    assert external == pytest.approx(sum(d["external"] for d in told["deployments"].values()))
    assert total == pytest.approx(totals(first)["cost"])
    assert external > 1
    assert [p["overrun"] for p in told["budgets"][1]["periods"]] == [0, 0]
    for name, pool in told["pools"].items():
        assert max(pool["used"]) == pool["max"] <= pool["gpus"], name
    for one in told["deployments"].values():
        assert one["cost"] == pytest.approx(sum(one["gpu_usd"]) + sum(one["stop_usd"]) + sum(one["external_usd"]))
        spent = sum(s * p for s, p in zip(one["spilled"], one["spill_price"], strict=True))
        assert spent == pytest.approx(one["external"])
        assert len({len(one[name]) for name in ("work", "asked", "ready", "served", "spilled", "refused")}) == 1


def test_other_policies_play_under_the_same_money_and_floors() -> None:
    documents = short()
    documents[POLICY]["spec"]["budgets"][1]["amount"] = "1.50"
    documents[GLM]["spec"]["minReplicas"] = 2
    stage = build(scenario(documents))
    for policy in ("hpa", "all-external", "fixed-1", "lcp"):
        one = run(stage, policy)
        assert min(one.played.ledgers["chat/glm-5"].asked[1:]) >= 2, policy
        assert all(p["overrun"] == 0 for p in document(one)["budgets"][1]["periods"]), policy
    with pytest.raises(UnknownPolicy, match="knows the future"):
        run(stage, "fixed-best")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.sampled_from(["", "1h", "4.20", "chat/glm-5", "FP8", "2026-01-01T00:00:00Z", "Europe/Berlin", "10s"])
    | st.text(max_size=12)
    | st.dates()
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn) -> list[Any]:
    """The sample with some values, anywhere, replaced by others."""
    documents: list[Any] = copy.deepcopy(DOCUMENTS)
    for _ in range(draw(st.integers(1, 3))):
        node: Any = documents
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 3)):
                node = node[key]
                continue
            node[key] = draw(JSON)
            break
    return documents


@given(mutated())
@settings(max_examples=150, deadline=None)
def test_any_change_of_the_sample_gives_a_scenario_or_its_one_error(documents: list[Any]) -> None:
    try:
        text = yaml.safe_dump_all(documents, allow_unicode=True)
    except yaml.YAMLError:
        return
    try:
        parse_text(text)
    except BadScenario as error:
        assert str(error)


@given(st.text() | st.text(alphabet="-:{}[]&*!|>%@`\"'# \n\tabc019.<=,?~"))
@settings(max_examples=200, deadline=None)
def test_any_text_gives_a_scenario_or_its_one_error(text: str) -> None:
    with pytest.raises(BadScenario):
        parse_text(text)


@pytest.mark.parametrize(
    "text",
    [
        *("!!timestamp x", "!!int ''", "!!bool x", "!!float 1e", "2026-13-45", "&a [*a]", "&a {b: *a}", "[" * 3000),
        *("1" * 5000, "!!python/object:os.system {}", "? {a: b}\n: c", "%YAML 9.9\n---\na", "\x00"),
        "kind: List\nitems: [1]",
        "a: 1\nb: {c: 1, c: 2}",
    ],
)
def test_what_yaml_itself_stumbles_over(text: str) -> None:
    with pytest.raises(BadScenario):
        parse_text(text)
