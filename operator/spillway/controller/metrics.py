"""The operator's own metrics; names after controller-runtime's where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spillway.decide import Plan, Snapshot
from spillway.ledger import Amount, Key
from spillway.ledger.detail import Detail


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "spillway_reconcile_total", "Reconciles of MoEDeployments by result.", ["result"], registry=self.registry
        )
        self.queue_depth = Gauge("spillway_workqueue_depth", "Keys waiting in the work queue.", registry=self.registry)
        self.leader = Gauge("spillway_leader", "1 while this process leads.", registry=self.registry)
        self.plan_seconds = Histogram(
            "spillway_plan_duration_seconds",
            "Time of one decide.plan.",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
            registry=self.registry,
        )
        self.gateways = Gauge(
            "spillway_gateways_connected", "Gateway processes on the ADS stream.", registry=self.registry
        )
        self.rejections = Gauge(
            "spillway_gateway_rejected_resources",
            "Parts of the configuration that a gateway refused.",
            registry=self.registry,
        )
        self.catalog_problems = Gauge(
            "spillway_catalog_problems",
            "Mistakes in the catalog's overlay; while there are any, the last good catalog is in force.",
            registry=self.registry,
        )
        self.certificates = Gauge(
            "spillway_ads_certificate_expiry_timestamp_seconds",
            "When a certificate between operator and gateways ends, as the leader knows it; authority: the newest.",
            ["certificate"],
            registry=self.registry,
        )
        for result in ("success", "error"):
            self.reconciles.labels(result)
        self._state = _State()
        self.registry.register(self._state)
        self._spending = _Spending()
        self.registry.register(self._spending)
        self._single = _SingleRequests()
        self.registry.register(self._single)

    def planned(self, snapshot: Snapshot, plan: Plan) -> None:
        """What the next scrape shows of each deployment; series vanish with it."""
        self._state.snapshot, self._state.plan = snapshot, plan

    def disabled(self, providers: Mapping[str, str]) -> None:
        """Providers that are disabled or on trial, with the reason."""
        self._state.disabled = providers

    def spent_by(self, spending: Callable[[], Mapping[Key, Amount]]) -> None:
        """Where a scrape finds all that was spent, while this process leads."""
        self._spending.look = spending

    def detailed_by(self, detail: Detail) -> None:
        """Where a scrape finds what single requests cost, while this process leads."""
        self._single.detail = detail


class _SingleRequests(Collector):
    """From the gateways' log. Quantiles, not a histogram: costs of models lie a factor of 10,000 apart, so that no
    buckets fit all, and only one process leads, so that nothing has to be added up."""

    def __init__(self) -> None:
        self.detail = Detail()

    def collect(self) -> Iterator[Metric]:
        cost = GaugeMetricFamily(
            "spillway_request_cost_usd",
            "Cost of a metered request of the last hour.",
            labels=["provider", "model", "quantile"],
        )
        coverage = GaugeMetricFamily(
            "spillway_ledger_detail_coverage_ratio",
            "Share of the metered requests of the last hour that the gateways' log told of.",
            labels=["provider"],
        )
        drift = GaugeMetricFamily(
            "spillway_ledger_drift_ratio",
            "How far the ledger's metered dollars of the last hour are from those of the gateways' log.",
            labels=["provider"],
        )
        for (provider, model), quantiles in sorted(self.detail.quantiles().items()):
            for quantile, usd in quantiles.items():
                cost.add_metric([provider, model, f"{quantile:g}"], float(usd))
        for provider, found in sorted(self.detail.sums().items()):
            if (share := found.coverage) is not None:
                coverage.add_metric([provider], share)
            if (ratio := found.drift) is not None:
                drift.add_metric([provider], ratio)
        yield from (cost, coverage, drift)


class _Spending(Collector):
    """The ledger's sums, which outlive every process: thirteen months of them, so a series falls only when its oldest
    month is dropped. Corrections are apart, in a gauge: a credit must not make a counter fall, which `rate` would take
    for a restart from zero and count all that was spent before once more."""

    def __init__(self) -> None:
        self.look: Callable[[], Mapping[Key, Amount]] = dict

    def collect(self) -> Iterator[Metric]:
        labels = ["namespace", "deployment", "source", "supplier", "model"]
        usd = CounterMetricFamily("spillway_spend_usd", "Dollars by the ledger.", labels=labels)
        estimated = CounterMetricFamily(
            "spillway_spend_estimated_usd", "Of them those that no meter has confirmed.", labels=labels
        )
        tokens = CounterMetricFamily("spillway_spend_tokens", "Tokens that were paid for by the token.", labels=labels)
        gpu = CounterMetricFamily("spillway_spend_gpu_seconds", "Seconds of GPUs that were paid for.", labels=labels)
        adjusted = GaugeMetricFamily(
            "spillway_spend_adjusted_usd", "What people corrected of the dollars, beside them.", labels=labels
        )
        charged: dict[Key, Amount] = {}
        corrected: dict[Key, Decimal] = {}
        for key, amount in self.look().items():
            charged.setdefault(key.charged, Amount())
            if key.adjustment:
                corrected[key.charged] = corrected.get(key.charged, Decimal(0)) + amount.usd
            else:
                charged[key] = amount
        for key, amount in sorted(charged.items()):
            who = [key.namespace, key.deployment, key.source, key.supplier, key.model]
            usd.add_metric(who, float(amount.usd))
            estimated.add_metric(who, float(amount.estimated_usd))
            adjusted.add_metric(who, float(corrected.get(key, Decimal(0))))
            if key.source == "external":
                tokens.add_metric(who, amount.tokens)
            else:
                gpu.add_metric(who, amount.gpu_seconds)
        yield from (usd, estimated, adjusted, tokens, gpu)


class _State(Collector):
    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.plan: Plan | None = None
        self.disabled: Mapping[str, str] = {}

    def collect(self) -> Iterator[Metric]:
        labels = ["namespace", "deployment"]
        work = GaugeMetricFamily("spillway_demand_work", "Demand in replicas of the reference variant.", labels=labels)
        gate = GaugeMetricFamily("spillway_gate_requests", "In-flight requests that the replicas take.", labels=labels)
        ratio = GaugeMetricFamily("spillway_spill_cost_ratio", "Spill cost per replica cost (kappa).", labels=labels)
        wanted = GaugeMetricFamily("spillway_desired_replicas", "Wanted replicas.", labels=[*labels, "variant"])
        left = GaugeMetricFamily("spillway_budget_remaining_usd", "Left of a budget.", labels=["policy", "budget"])
        for deployment in self.plan.deployments if self.plan else ():
            who = deployment.key.split("/", 1)
            if deployment.work is not None:
                work.add_metric(who, deployment.work)
            if deployment.spill_cost_ratio is not None:
                ratio.add_metric(who, deployment.spill_cost_ratio)
            gate.add_metric(who, deployment.gate)
            for variant, number in deployment.desired.items():
                wanted.add_metric([*who, variant], number)
        for budget in self.snapshot.budgets if self.snapshot else ():
            left.add_metric([budget.policy, budget.name], float(budget.remaining))
        disabled = GaugeMetricFamily(
            "spillway_provider_disabled",
            "1 for a provider that refuses everything, until it answered a request again.",
            labels=["provider", "reason"],
        )
        for provider, reason in sorted(self.disabled.items()):
            disabled.add_metric([provider, reason], 1)
        yield from (work, gate, ratio, wanted, left, disabled)
