"""What the gateways should do: the input of this room.

Plain data, no Kubernetes and no money: decide and ledger have already spoken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from spillway.gateway.names import Pair, deployment_id


@dataclass(frozen=True)
class Endpoint:
    """One ready replica: IP address and port of its OpenAI-compatible server."""

    address: str
    port: int


@dataclass(frozen=True)
class Provider:
    """An external API.

    base_url: as in the `openai` client, for example `https://api.z.ai/api/paas/v4`; plain http only with `insecure`.
    connect_seconds: to connect, TLS included. first_byte_seconds: to the answer's headers. idle_seconds: of silence,
    the wait for the headers included. None: only the gateway's own limit.
    requests_per_minute: that may begin there, over all deployments, models and gateways; None: no limit.
    credential_key, ca_key: file names in the gateway's keys directory, never the secrets themselves.
    """

    name: str
    base_url: str
    credential_key: str
    credential_header: str = "Authorization"
    credential_prefix: str = "Bearer "
    ca_key: str | None = None
    server_name: str | None = None
    insecure: bool = False
    connect_seconds: float = 5.0
    first_byte_seconds: float | None = None
    idle_seconds: float | None = None
    requests_per_minute: int | None = None

    @property
    def tls(self) -> bool:
        """Raises ValueError when the URL is neither https nor allowed to be plain."""
        scheme = urlsplit(self.base_url).scheme
        if scheme == "https":
            return True
        if scheme == "http" and self.insecure:
            return False
        raise ValueError(f"provider {self.name}: base URL {self.base_url!r} must be https")

    @property
    def hostname(self) -> str:
        hostname = urlsplit(self.base_url).hostname
        if not hostname:
            raise ValueError(f"provider {self.name}: base URL {self.base_url!r} names no host")
        return hostname

    @property
    def port(self) -> int:
        return urlsplit(self.base_url).port or (443 if self.tls else 80)

    @property
    def authority(self) -> str:
        """The Host header."""
        port = urlsplit(self.base_url).port
        return self.hostname + (f":{port}" if port else "")

    @property
    def path(self) -> str:
        """What takes the place of `/v1`."""
        return urlsplit(self.base_url).path.rstrip("/")


@dataclass(frozen=True)
class Egress:
    """One (provider, model): what a request may cost at most there, and which fields that provider refuses.

    context_length: the longest prompt that is believed without doubt, in tokens. tiers: the prompt lengths above which
    the provider has other prices, ascending.
    """

    provider: str
    model: str
    max_output_tokens: int
    max_choices: int = 1
    drop_fields: tuple[str, ...] = ()
    context_length: int = 131_072
    tiers: tuple[int, ...] = ()

    @property
    def pair(self) -> Pair:
        return (self.provider, self.model)


@dataclass(frozen=True)
class Refusal:
    """What a client reads when neither a replica nor a provider may take its request (status 429 or 503)."""

    status: int
    code: str
    message: str
    retry_after_seconds: int


@dataclass(frozen=True)
class Route:
    """Requests that always go to one pair; exactly one of header (name, value), model and percent says which.

    pair: None where the deployment may not use it at all. refusal: the answer while the pair may not be asked.
    """

    name: str
    pair: Pair | None
    refusal: Refusal
    header: tuple[str, str] | None = None
    model: str | None = None
    percent: int = 0


@dataclass(frozen=True)
class Deployment:
    """One MoEDeployment as the gateway sees it.

    chain: the external (provider, model) pairs in the order they are tried; empty: served locally only.
    gate_fallback: the in-flight limit of one gateway process until the `gate` runtime layer has been received.
    refusal: replaces the plain "at capacity" answer, for example when a budget ran out.
    routes: in order; those by percentage share what the others leave.
    affinity: requests that begin alike go to the same replica while it is not overloaded.
    hold_seconds: how long a request waits that finds no replica and may not go out; 0: it is refused at once.
    some_occasions: spill may be open to what finds the replicas full and shut to what finds none, or the other way.
    """

    namespace: str
    name: str
    served_name: str
    health_path: str
    endpoints: tuple[Endpoint, ...]
    chain: tuple[Pair, ...] = ()
    refusal: Refusal | None = None
    gate_fallback: int = 1
    routes: tuple[Route, ...] = ()
    affinity: bool = False
    hold_seconds: int = 0
    some_occasions: bool = False

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every pair that a request may go to, by the chain or by a route; each once."""
        routed = (route.pair for route in self.routes if route.pair is not None)
        return tuple(dict.fromkeys((*self.chain, *routed)))

    @property
    def id(self) -> str:
        return deployment_id(self.namespace, self.name)

    @property
    def host(self) -> str:
        return f"{self.name}.{self.namespace}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Addresses that are this deployment's whatever else exists: with and without `svc` and any cluster domain."""
        return (self.host, f"{self.host}.svc", f"{self.host}.svc.*")


@dataclass(frozen=True)
class SpillState:
    """Run-time numbers of one deployment, for all gateway processes together.

    share_percent: of requests that go to the providers first (0 in normal operation, when only the overflow does).
    gate: in-flight requests that the local replicas take. caps: in-flight requests that the money allows to a pair.
    when_full, when_empty: what finds the replicas full, or finds none, may go out.
    hold: no replica is ready and nothing may go out: what comes waits, and is still not refused when the first is full.
    routed: pairs that routes may use now, whatever `allowed` and `permitted` say of spill.
    lease_seconds: how long the gateways may go on spilling without word from the leader.
    """

    allowed: bool
    gate: int
    share_percent: int = 0
    permitted: Mapping[Pair, bool] = field(default_factory=dict)
    caps: Mapping[Pair, int] = field(default_factory=dict)
    lease_seconds: float = 15.0
    routed: frozenset[Pair] = frozenset()
    when_full: bool = True
    when_empty: bool = True
    hold: bool = False


@dataclass(frozen=True)
class Desired:
    """Everything that is published. `spill` is keyed by Deployment.id."""

    deployments: tuple[Deployment, ...] = ()
    providers: tuple[Provider, ...] = ()
    egresses: tuple[Egress, ...] = ()
    spill: Mapping[str, SpillState] = field(default_factory=dict)


@dataclass(frozen=True)
class GatewayNode:
    """One gateway process, as its bootstrap introduces it: where it listens, where it finds keys and public CAs.

    tls_secret: its file of Envoy's Secret message that names the certificate for clients; empty: no TLS for them.
    """

    name: str
    process: str
    address: str
    bind_address: str = "0.0.0.0"
    traffic_port: int = 8080
    metrics_port: int = 9902
    keys_directory: str = "/etc/spillway/keys"
    ca_file: str = "/etc/ssl/certs/ca-certificates.crt"
    tls_port: int = 8443
    tls_secret: str = ""
