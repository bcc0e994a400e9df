"""From the plan to what the gateways are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spillway.api import ExternalProvider, MoEDeployment
from spillway.build import ENGINE_PORT
from spillway.decide.outcome import DeploymentPlan, Plan
from spillway.decide.snapshot import Phase, Replica, Snapshot
from spillway.gateway import desired as gateway
from spillway.observe.objects import Objects
from spillway.observe.resolve import Resolved

CONNECT_SECONDS = 5.0  # to a provider, where it says nothing else
HEALTH_PATHS = {"vLLM": "/health", "SGLang": "/ready"}  # SGLang's /health generates a token


def desired(
    plan: Plan,
    snapshot: Snapshot,
    resolved: Sequence[Resolved],
    providers: Mapping[str, ExternalProvider],
    objects: Objects,
    gateways: int,
) -> gateway.Desired:
    """Deployments with their endpoints, the provider pairs that they may ever use, and the numbers of now."""
    seen = {d.key: d for d in snapshot.deployments}
    deployments, spill = [], {}
    pairs: set[tuple[str, str]] = set()
    for one in sorted(resolved, key=lambda r: r.moe.key):
        planned = plan.deployment(one.moe.key)
        if planned is None:
            continue
        namespace = one.moe.metadata.namespace
        if seen[one.moe.key].dry_run and one.moe.key not in objects.services:
            continue  # a dry run from its beginning: no request comes in, and so none goes out
        # A provider that the namespace may not use is not configured at all, whatever the runtime says.
        chain = tuple(
            (p.provider, p.model)
            for p in planned.spill.providers
            if (found := providers.get(p.provider)) and found.spec.allows(namespace) and found.spec.model(p.model)
        )
        routes = routing(one.moe, planned, providers)
        pairs.update(chain, (route.pair for route in routes if route.pair is not None))
        deployment = gateway.Deployment(
            namespace=namespace,
            name=one.moe.metadata.name,
            served_name=one.moe.served_name,
            health_path=HEALTH_PATHS[one.moe.spec.engine.name],
            endpoints=endpoints(planned, seen[one.moe.key].replicas, namespace, objects),
            chain=chain,
            refusal=gateway.Refusal(
                planned.spill.refusal.status,
                planned.spill.refusal.code,
                planned.spill.refusal.message,
                planned.spill.refusal.retry_after_seconds,
            ),
            gate_fallback=fallback(planned.gate, gateways),
            routes=routes,
            affinity=one.moe.spec.balancing == "PrefixAffinity",
            hold_seconds=round(planned.spill.hold_seconds),
            some_occasions=not one.moe.spec.spill.on_every_occasion,
        )
        deployments.append(deployment)
        spill[deployment.id] = gateway.SpillState(
            allowed=planned.spill.allowed,
            gate=planned.gate,
            permitted={
                (p.provider, p.model): p.permitted for p in planned.spill.providers if (p.provider, p.model) in chain
            },
            caps={pair: cap for pair, cap in caps(planned).items() if pair in deployment.pairs},
            when_full=planned.spill.when_full,
            when_empty=planned.spill.when_empty,
            hold=not deployment.endpoints and not (planned.spill.allowed and planned.spill.when_empty),
            routed=frozenset((r.provider, r.model) for r in planned.spill.routes if r.permitted),
            lease_seconds=planned.spill.lease_seconds,
        )
    return gateway.Desired(
        deployments=tuple(deployments),
        providers=tuple(provider(providers[name]) for name in sorted({name for name, _ in pairs})),
        egresses=tuple(egress(providers[name], model) for name, model in sorted(pairs)),
        spill=spill,
    )


def caps(planned: DeploymentPlan) -> dict[tuple[str, str], int]:
    """In-flight requests of each pair; one that spill and a route share has one cap, which is 0 where both are shut."""
    found = {(p.provider, p.model): p.cap for p in planned.spill.providers}
    for route in planned.spill.routes:
        pair = (route.provider, route.model)
        found[pair] = max(route.cap, found.get(pair, 0))
    return found


def routing(
    moe: MoEDeployment, planned: DeploymentPlan, providers: Mapping[str, ExternalProvider]
) -> tuple[gateway.Route, ...]:
    """spec.routes. One to a provider that the namespace may not use leads nowhere, whatever the runtime says."""
    plans = {(r.provider, r.model): r for r in planned.spill.routes}
    found = []
    for route in moe.spec.routes:
        pair = (route.to.provider, route.to.model)
        offered = providers.get(pair[0])
        usable = offered and offered.spec.allows(moe.metadata.namespace) and offered.spec.model(pair[1])
        refusal, header = plans[pair].refusal, route.match.header
        found.append(
            gateway.Route(
                name=route.name,
                pair=pair if usable else None,
                refusal=gateway.Refusal(refusal.status, refusal.code, refusal.message, refusal.retry_after_seconds),
                header=(header.name, header.value) if header else None,
                model=route.match.model,
                percent=route.match.percent or 0,
            )
        )
    return tuple(found)


def fallback(gate: int, gateways: int) -> int:
    """The gate of one process until it has the exact number: a power of two, so that clusters rarely change for it."""
    each = max(1, gate // max(1, gateways))
    return 1 << (each.bit_length() - 1)


def endpoints(
    planned: DeploymentPlan, replicas: Sequence[Replica], namespace: str, objects: Objects
) -> tuple[gateway.Endpoint, ...]:
    """Addresses of the ready pods that do not drain. Pods, not EndpointSlices: those refuse loopback addresses."""
    draining = {name for w in planned.workloads for name in w.draining}
    found = []
    for replica in replicas:
        if replica.phase is not Phase.READY or replica.name in draining:
            continue
        pod = objects.pods.get(f"{namespace}/{replica.name}")
        address = ((pod or {}).get("status") or {}).get("podIP")
        if address:
            found.append(gateway.Endpoint(address, ENGINE_PORT))
    return tuple(sorted(found, key=lambda e: e.address))


def provider(obj: ExternalProvider) -> gateway.Provider:
    spec = obj.spec
    return gateway.Provider(
        name=obj.metadata.name,
        base_url=spec.base_url,
        credential_key=spec.credentials.key,
        credential_header=spec.credentials.header,
        credential_prefix=spec.credentials.prefix,
        ca_key=spec.tls.ca_secret_ref.key if spec.tls.ca_secret_ref else None,
        server_name=spec.tls.server_name,
        insecure=spec.tls.insecure,
        connect_seconds=CONNECT_SECONDS if (given := spec.timeouts.connect_seconds) is None else given,
        first_byte_seconds=spec.timeouts.first_byte_seconds,
        idle_seconds=spec.timeouts.idle_seconds,
        requests_per_minute=spec.limits.requests_per_minute,
    )


def egress(obj: ExternalProvider, model_name: str) -> gateway.Egress:
    model = obj.spec.model(model_name)
    assert model is not None, "only offered models are in a chain"
    tiers = tuple(sorted(tier.above_input_tokens for tier in model.price.tiers))
    return gateway.Egress(
        obj.metadata.name, model.name, model.max_output_tokens, 1, model.drop_fields, model.context_length, tiers
    )
