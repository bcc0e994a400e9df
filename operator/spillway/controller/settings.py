"""Settings of the operator process: flags of `spillway operator`, each also as SPILLWAY_<NAME> in the environment."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from spillway.build import BuildSettings
from spillway.decide.snapshot import Settings as DecideSettings
from spillway.ledger import Timing
from spillway.observe.traffic import Windows


class OperatorSettings(BaseModel):
    """Durations in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: str = "spillway-system"
    pod_name: str = "spillway-operator"
    prometheus_url: str = "http://prometheus-operated.monitoring.svc:9090"
    bind_address: str = "0.0.0.0"
    ads_port: int = Field(default=18000, ge=0, le=65535)
    health_port: int = Field(default=8081, ge=0, le=65535)
    gateway_host: str = "spillway-gateway.spillway-system.svc.cluster.local"
    gateway_metrics_port: int = Field(default=9902, ge=1, le=65535)
    catalog_config_map: str = Field(default="spillway-catalog", min_length=1, max_length=253)
    scraper_namespace: str = Field(default="monitoring", min_length=1, max_length=63)
    pod_monitor_labels: str = Field(
        default="",
        max_length=1024,
        pattern=r"^([-._/A-Za-z0-9]+=[-._A-Za-z0-9]*(,[-._/A-Za-z0-9]+=[-._A-Za-z0-9]*)*)?$",
    )
    tick_seconds: float = Field(default=10.0, gt=0, le=300)
    rate_window_seconds: float = Field(default=60.0, gt=0)
    token_window_seconds: float = Field(default=300.0, gt=0)
    metrics_stale_seconds: float = Field(default=60.0, gt=0)
    drain_seconds: float = Field(default=300.0, ge=0)
    deregister_seconds: float = Field(default=5.0, ge=0)
    prestop_seconds: int = Field(default=10, ge=0)
    engine_drain_seconds: int = Field(default=60, ge=0)
    probe_period_seconds: int = Field(default=10, ge=1)
    engine_cpu_millis_per_gpu: int = Field(default=4000, ge=1)
    engine_memory_mib_per_gpu: int = Field(default=32 * 1024, ge=1)
    shortest_answer_seconds: float = Field(default=0.25, gt=0)
    fastest_stream_tokens_per_second: float = Field(default=300.0, gt=0)
    lease_duration_seconds: float = Field(default=15.0, gt=1)
    lease_deadline_seconds: float = Field(default=10.0, gt=0.5)
    lease_retry_seconds: float = Field(default=2.0, gt=0.1)
    workers: int = Field(default=4, ge=1, le=64)
    record: str = ""
    record_megabytes: int = Field(default=1024, ge=1)

    @field_validator("lease_deadline_seconds", "lease_retry_seconds")
    @classmethod
    def _below(cls, seconds: float, info: ValidationInfo) -> float:
        """A leader must know that it lost the lease before another one may take it."""
        above = {"lease_deadline_seconds": "lease_duration_seconds", "lease_retry_seconds": "lease_deadline_seconds"}
        limit = info.data.get(above[str(info.field_name)])
        if limit is not None and seconds >= limit:
            raise ValueError(f"must be below --{above[str(info.field_name)].replace('_', '-')}, which is {limit:g}")
        return seconds

    def decide(self) -> DecideSettings:
        return DecideSettings(
            metrics_stale_seconds=self.metrics_stale_seconds,
            metrics_window_seconds=self.rate_window_seconds,
            drain_seconds=self.drain_seconds,
            deregister_seconds=self.deregister_seconds,
            start_budget_seconds=float(self.build().startup_seconds),
        )

    def windows(self) -> Windows:
        return Windows(self.rate_window_seconds, self.token_window_seconds, self.metrics_stale_seconds)

    def build(self) -> BuildSettings:
        return BuildSettings(
            gateway_host=self.gateway_host,
            gateway_namespace=self.namespace,
            scraper_namespace=self.scraper_namespace,
            pod_monitor_labels=tuple(
                (key, value)
                for key, _, value in (pair.partition("=") for pair in self.pod_monitor_labels.split(",") if pair)
            ),
            drain_seconds=self.engine_drain_seconds,
            prestop_seconds=self.prestop_seconds,
            probe_period_seconds=self.probe_period_seconds,
            cpu_millis_per_gpu=self.engine_cpu_millis_per_gpu,
            memory_mib_per_gpu=self.engine_memory_mib_per_gpu,
        )

    def timing(self) -> Timing:
        return Timing(
            shortest_seconds=Decimal(str(self.shortest_answer_seconds)),
            output_tokens_per_second=Decimal(str(self.fastest_stream_tokens_per_second)),
        )
