"""The simulated external APIs: their processes, certificates, keys, and the Secret that the gateway mounts."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import yaml

from e2e.cluster.certificates import Authority
from e2e.cluster.controlplane import ControlPlane, answers
from e2e.cluster.processes import Process, python_environment, wait_until
from e2e.cluster.settings import KEYS_FILE, KEYS_SECRET, PROVIDER_CA_KEY, REPOSITORY, SYSTEM_NAMESPACE, Provider


class Providers:
    """Starts one simulator per provider at <prefix>.<host> and publishes keys and CA in the cluster."""

    def __init__(self, plane: ControlPlane, directory: Path, providers: list[Provider], prefix: str) -> None:
        self._plane, self._directory, self._providers, self._prefix = plane, directory, providers, prefix
        self._authority = Authority(directory / "providers", "provider-ca")
        self._processes: list[Process] = []

    def address(self, provider: Provider) -> str:
        return f"{self._prefix}.{provider.host}"

    def start(self) -> None:
        for provider in self._providers:
            self._processes.append(self._start(provider))
        for provider, process in zip(self._providers, self._processes, strict=True):
            bill = f"{self.control_url(provider)}/bill"
            wait_until(f"provider {provider.name}", partial(answers, bill), 30, process)
        self._publish_keys()

    def stop(self) -> None:
        for process in self._processes:
            process.stop(2)

    def control_url(self, provider: Provider) -> str:
        return f"http://{self.address(provider)}:{provider.control_port}"

    def describe(self) -> dict[str, dict[str, str]]:
        """What a client or an ExternalProvider needs to know, by name."""
        return {
            provider.name: {
                "base_url": f"https://{self.address(provider)}:{provider.port}{provider.config.get('basePath', '/v1')}",
                "server_name": provider.server_name,
                "control_url": self.control_url(provider),
            }
            for provider in self._providers
        }

    def _start(self, provider: Provider) -> Process:
        certificate, key = self._authority.issue(provider.name, [provider.server_name, self.address(provider)])
        config = self._directory / "providers" / f"{provider.name}.json"
        config.write_text(json.dumps({**provider.config, "keys": [provider.api_key]}))
        return Process(
            f"provider-{provider.name}",
            [
                *(sys.executable, "-m", "e2e.simulators.provider"),
                *("--address", self.address(provider), "--port", str(provider.port)),
                *("--control-port", str(provider.control_port)),
                *("--cert", str(certificate), "--key", str(key), "--config", str(config)),
            ],
            self._directory / "logs" / f"provider-{provider.name}.log",
            python_environment(PYTHONPATH=str(REPOSITORY)),
        ).start()

    def _publish_keys(self) -> None:
        manifest = self._directory / KEYS_FILE  # applied again when Spillway is deployed again after a deletion
        write_keys(manifest, self._providers, self._authority)
        self._plane.kubectl("apply", "--server-side", "--field-manager=e2e-cluster", "-f", str(manifest))


def write_keys(manifest: Path, providers: list[Provider], authority: Authority) -> None:
    """The Secret with the keys of all providers and the authority that signed their certificates, as YAML."""
    keys = {provider.name: provider.api_key for provider in providers}
    keys[PROVIDER_CA_KEY] = authority.certificate.read_text()
    documents = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": KEYS_SECRET, "namespace": SYSTEM_NAMESPACE},
            "stringData": keys,
        },
    ]
    manifest.touch(0o600)
    manifest.write_text(yaml.safe_dump_all(documents))
