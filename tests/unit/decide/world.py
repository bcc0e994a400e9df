"""A small virtual cluster that obeys plans, to see what `plan` does over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from spillway.decide.memory import Memory
from spillway.decide.outcome import Decision, DeploymentPlan, Plan
from spillway.decide.planner import plan
from spillway.decide.snapshot import (
    Asked,
    Demand,
    Deployment,
    Phase,
    Pool,
    ProviderOption,
    Replica,
    Retired,
    Snapshot,
    Variant,
)

BLACKWELL = Variant("b200-nvfp4-vllm", "b200", "NVFP4", "vLLM", "rev1", 4, 16.8, 22000, 2800, 68, 300)
HOPPER = Variant("h200-fp8-vllm", "h200", "FP8", "vLLM", "rev1", 8, 20.0, 11000, 1600, 40, 300)
ALL = (BLACKWELL, HOPPER)
ZAI = ProviderOption("zai", "glm-5", 1.0, 3.2, affordable_in_flight=50)
REQUESTS_PER_UNIT = 1 / (1155 / 22000 + 211 / 2800)


def deployment(**changes: object) -> Deployment:
    base = Deployment(
        "chat",
        "glm-5",
        min_replicas=1,
        max_replicas=8,
        pinned_replicas=0,
        queue_seconds=10,
        variants=(BLACKWELL, HOPPER),
        providers=(ZAI,),
        policies=("team",),
        usd_value_per_request=0.02,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@dataclass
class World:
    """Pods appear on `asked`, get GPUs while the pool has stock, and are ready one cold start later. The stock is one
    machine; what `pool_gpus` promises beyond it never comes."""

    deployment: Deployment = field(default_factory=deployment)
    work: Callable[[float], float] = lambda _: 0.5  # replicas of Blackwell that demand would fill
    stock: dict[str, int] = field(default_factory=lambda: {"b200": 32, "h200": 32})
    pool_gpus: int = 32
    reserved: dict[str, int] = field(default_factory=dict)  # GPUs that are paid anyway
    cold_start: float = 300.0
    timeout: float = 900.0
    tick: float = 10.0
    now: float = 1000.0
    metrics: bool = True
    memory: Memory = field(default_factory=Memory)
    replicas: dict[str, Replica] = field(default_factory=dict)
    asked: dict[tuple[str, str], int] = field(default_factory=dict)
    told: list[tuple[float, Decision]] = field(default_factory=list)
    serial: int = 0
    broken: frozenset[str] = frozenset()  # revisions that never start
    errors: float = 0.0  # of the replicas' answers, per second
    known: dict[str, Variant] = field(default_factory=dict)  # variants that were ever possible

    def used(self, pool: str) -> int:
        return sum(
            v.gpus_per_replica
            for r in self.replicas.values()
            if r.scheduled_at is not None and (v := self.known[r.variant]).pool == pool
        )

    def snapshot(self) -> Snapshot:
        self.known |= {v.name: v for v in self.deployment.variants}
        rate = self.work(self.now) * REQUESTS_PER_UNIT
        answers = {"local_answers_per_second": rate, "local_errors_per_second": self.errors}
        demand = Demand(rate, 1155, 211, **answers) if self.metrics else None
        pools = tuple(
            Pool(
                name,
                (max(0, self.stock[name] - self.used(name)),),
                max(0, self.pool_gpus - max(self.stock[name], self.used(name))),
                8,
                self.timeout,
                self.pool_gpus,
                self.used(name),
                usd_per_gpu_hour=next(v.usd_per_hour / v.gpus_per_replica for v in ALL if v.pool == name),
                reserved_gpus=self.reserved.get(name, 0),
            )
            for name in self.stock
        )
        asked = tuple(Asked(v, r, n) for (v, r), n in self.asked.items())
        retired = tuple(
            Retired(name, v.pool, v.gpus_per_replica, v.usd_per_hour)
            for name, v in sorted(self.known.items())
            if self.deployment.variant(name) is None and any(a.variant == name for a in asked)
        )
        now_deployment = replace(
            self.deployment, demand=demand, asked=asked, replicas=tuple(self.replicas.values()), retired=retired
        )
        return Snapshot(self.now, (now_deployment,), pools)

    def step(self) -> DeploymentPlan:
        """One tick: plan, then let the cluster follow."""
        outcome, self.memory = plan(self.snapshot(), self.memory)
        self.follow(outcome)
        self.now += self.tick
        return outcome.deployments[0]

    def run(self, seconds: float) -> DeploymentPlan:
        outcome = self.step()
        for _ in range(round(seconds / self.tick) - 1):
            outcome = self.step()
        return outcome

    def follow(self, outcome: Plan) -> None:
        for decision in outcome.deployments[0].decisions:
            self.told.append((self.now, decision))
        for workload in outcome.deployments[0].workloads:
            key = (workload.variant, workload.revision)
            self.asked[key] = workload.replicas
            if workload.replicas == 0 and not workload.kept and not any(self.of(key)):
                del self.asked[key]
            mine = self.of(key)
            for _ in range(workload.replicas - len(mine)):
                self.serial += 1
                name = f"pod-{self.serial}"
                self.replicas[name] = Replica(name, *key, Phase.PENDING, self.now, in_flight=0)
            surplus = sorted(mine, key=lambda r: (r.phase is Phase.READY, r.name not in workload.draining, r.name))
            for victim in surplus[: max(0, len(mine) - workload.replicas)]:
                del self.replicas[victim.name]
        for name, replica in list(self.replicas.items()):
            variant = self.known[replica.variant]
            if (
                replica.phase is Phase.PENDING
                and self.used(variant.pool) + variant.gpus_per_replica <= self.stock[variant.pool]
            ):
                self.replicas[name] = replace(replica, phase=Phase.STARTING, scheduled_at=self.now)
            elif replica.revision in self.broken:
                self.replicas[name] = replace(replica, failure=f"{name}: CrashLoopBackOff after exit code 2")
            elif replica.phase is Phase.STARTING and self.now - (replica.scheduled_at or 0) >= self.cold_start:
                self.replicas[name] = replace(replica, phase=Phase.READY, ready_at=self.now)

    def of(self, key: tuple[str, str]) -> list[Replica]:
        return [r for r in self.replicas.values() if (r.variant, r.revision) == key]

    def answering(self) -> int:
        return sum(r.phase is Phase.READY for r in self.replicas.values())

    def ready(self, variant: str) -> int:
        return sum(1 for r in self.replicas.values() if r.variant == variant and r.phase is Phase.READY)

    def codes(self) -> set[str]:
        return {d.code for _, d in self.told}

    def changes(self) -> list[Decision]:
        return [d for _, d in self.told if d.changes]
