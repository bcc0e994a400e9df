"""The few numbers of the objects that belong to the installation and not to a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """Where the gateway and the scraper are, what a replica asks of its node beside GPUs, and how long it may take to
    start and to stop.

    A replica stops in this order: the gateway and the endpoints forget it (within ``prestop_seconds``), requests in
    flight end (``drain_seconds``), the process exits (``EXIT_SECONDS``), Kubernetes kills it.
    """

    gateway_host: str = "spillway-gateway.spillway-system.svc.cluster.local"
    gateway_namespace: str = "spillway-system"
    scraper_namespace: str = "monitoring"
    pod_monitor_labels: tuple[tuple[str, str], ...] = ()
    drain_seconds: int = 60
    prestop_seconds: int = 10
    startup_seconds: int = 3600
    probe_period_seconds: int = 10
    cpu_millis_per_gpu: int = 4000
    memory_mib_per_gpu: int = 32 * 1024

    @property
    def termination_grace_seconds(self) -> int:
        """Longer than everything a replica does before it exits."""
        return self.prestop_seconds + self.drain_seconds + EXIT_SECONDS

    def requests(self, gpus: int) -> dict[str, str]:
        """CPU and memory requests of a pod with so many GPUs, as Kubernetes quantities in their canonical form."""
        millis, mebibytes = self.cpu_millis_per_gpu * gpus, self.memory_mib_per_gpu * gpus
        return {
            "cpu": f"{millis}m" if millis % 1000 else str(millis // 1000),
            "memory": f"{mebibytes}Mi" if mebibytes % 1024 else f"{mebibytes // 1024}Gi",
        }


EXIT_SECONDS = 15
"""From the end of the drain to the exit of the process: 13.5 s after SIGTERM with 4.5 s of work were measured."""
