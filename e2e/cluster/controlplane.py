"""etcd, kube-apiserver and, when asked for, controller manager and scheduler as plain processes on loopback."""

from __future__ import annotations

import base64
import secrets
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

import yaml

from e2e.cluster import audit, binaries
from e2e.cluster.certificates import Authority, write_signing_key
from e2e.cluster.processes import Process, Say, free_port, wait_until

# Endpoint controllers are left out: they may not write loopback addresses, and the node agent serves Services.
_CONTROLLERS = (
    "clusterrole-aggregation-controller,daemonset-controller,deployment-controller,disruption-controller,"
    "garbage-collector-controller,horizontal-pod-autoscaler-controller,job-controller,namespace-controller,"
    "node-lifecycle-controller,pod-garbage-collector-controller,replicaset-controller,"
    "root-ca-certificate-publisher-controller,serviceaccount-controller,statefulset-controller,"
    "taint-eviction-controller"
)


class ControlPlane:
    """A Kubernetes control plane in a directory; use it as a context manager.

    `kubeconfig` is an administrator's; `server`, `token` and `authority` serve clients that want no file.
    The processes die with the thread that entered the context.
    """

    def __init__(self, directory: Path, *, controllers: bool = True, say: Say = print) -> None:
        self.directory, self.controllers, self._say = directory, controllers, say
        self.kubeconfig = directory / "kubeconfig"
        self.audit_log = directory / "logs" / "audit.log"
        self.server = ""
        self.token = secrets.token_urlsafe(24)
        self.processes: list[Process] = []

    def __enter__(self) -> ControlPlane:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        programs = binaries.find_or_build(controllers=self.controllers, say=self._say)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.authority = Authority(self.directory / "pki", "ca")
        etcd_url = self._start_etcd(programs)
        self._start_api_server(programs, etcd_url)
        if self.controllers:
            self._start_controllers(programs)

    def stop(self) -> None:
        """End the processes, the last started first."""
        for process in reversed(self.processes):
            process.stop()
        self.processes.clear()

    def kubectl(
        self, *arguments: str, input: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator; with check a failure raises with kubectl's own words."""
        return run_kubectl(self.kubeconfig, *arguments, input=input, check=check)

    def _start_etcd(self, programs: binaries.Binaries) -> str:
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        etcd = self._start(
            "etcd",
            [
                str(programs.etcd),
                f"--data-dir={self.directory / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",  # throw-away data
                "--log-level=warn",
            ],
        )
        wait_until("etcd", lambda: answers(f"{client}/health"), 30, etcd)
        return client

    def _start_api_server(self, programs: binaries.Binaries, etcd_url: str) -> None:
        pki = self.directory / "pki"
        write_signing_key(pki / "accounts.key", pki / "accounts.pub")
        certificate, key = self.authority.issue("apiserver", ["127.0.0.1", "localhost", "kubernetes.default.svc"])
        tokens = pki / "tokens.csv"
        tokens.write_text(f'{self.token},admin,admin,"system:masters"\n')
        tokens.chmod(0o600)
        policy = pki / "audit-policy.yaml"
        policy.write_text(audit.POLICY)
        self.audit_log.parent.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.server = f"https://127.0.0.1:{port}"
        api = self._start(
            "kube-apiserver",
            [
                programs.kube("kube-apiserver"),
                f"--etcd-servers={etcd_url}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
                f"--secure-port={port}",
                f"--tls-cert-file={certificate}",
                f"--tls-private-key-file={key}",
                f"--token-auth-file={tokens}",
                f"--kubelet-certificate-authority={self.authority.certificate}",
                f"--kubelet-client-certificate={certificate}",
                f"--kubelet-client-key={key}",
                "--kubelet-preferred-address-types=InternalIP",
                "--authorization-mode=RBAC",
                # As managed clouds do: who asks for GPUs tolerates the taint of GPU nodes.
                "--enable-admission-plugins=ExtendedResourceToleration",
                f"--audit-policy-file={policy}",
                f"--audit-log-path={self.audit_log}",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={pki / 'accounts.pub'}",
                f"--service-account-signing-key-file={pki / 'accounts.key'}",
            ],
        )
        self.kubeconfig.write_text(kubeconfig(self.server, self.authority.certificate, self.token))
        self.kubeconfig.chmod(0o600)
        trust = ssl.create_default_context(cafile=str(self.authority.certificate))
        wait_until("kube-apiserver", lambda: answers(f"{self.server}/readyz", trust, self.token), 60, api)

    def _start_controllers(self, programs: binaries.Binaries) -> None:
        common = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1"]
        self._start(
            "kube-controller-manager",
            [
                programs.kube("kube-controller-manager"),
                *common,
                f"--secure-port={free_port()}",
                f"--cert-dir={self.directory / 'pki' / 'controller-manager'}",
                f"--controllers={_CONTROLLERS}",
                f"--root-ca-file={self.authority.certificate}",
                # The agent reports a lost node itself, so its heartbeats can be rare and cheap.
                "--node-monitor-grace-period=10m",
                "--node-monitor-period=5s",
            ],
        )
        self._start(
            "kube-scheduler",
            [
                programs.kube("kube-scheduler"),
                *common,
                f"--secure-port={free_port()}",
                f"--cert-dir={self.directory / 'pki' / 'scheduler'}",
            ],
        )

    def _start(self, name: str, argv: list[str]) -> Process:
        process = Process(name, argv, self.directory / "logs" / f"{name}.log").start()
        self.processes.append(process)
        return process


def answers(url: str, trust: ssl.SSLContext | None = None, token: str | None = None) -> bool:
    """Whether a GET gets a 2xx answer."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=2, context=trust) as response:
            return bool(200 <= response.status < 300)
    except (urllib.error.URLError, OSError):
        return False


def kubeconfig(server: str, authority: Path, token: str, namespace: str = "default") -> str:
    """A kubeconfig with one context; the CA is embedded so that the file can be moved."""
    cluster = {
        "server": server,
        "certificate-authority-data": base64.b64encode(authority.read_bytes()).decode(),
    }
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "spillway",
            "clusters": [{"name": "spillway", "cluster": cluster}],
            "users": [{"name": "spillway", "user": {"token": token}}],
            "contexts": [
                {"name": "spillway", "context": {"cluster": "spillway", "user": "spillway", "namespace": namespace}}
            ],
        }
    )


def run_kubectl(
    config: Path, *arguments: str, input: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """kubectl with exactly this kubeconfig, whatever the caller's environment says."""
    done = subprocess.run(
        [binaries.kubectl(), f"--kubeconfig={config}", *arguments],
        input=input,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done
