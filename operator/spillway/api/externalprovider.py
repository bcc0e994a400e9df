"""ExternalProvider: an OpenAI-compatible API that requests may spill to (cluster-scoped, ``xprov``)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, model_validator

from spillway.api.conditions import Conditions
from spillway.api.markers import Keywords, ListType, cel, model_rules
from spillway.api.resource import Column, Definition, KubeModel, Resource
from spillway.api.rules import NAME_RULE, Namespaces, SecretKeyName
from spillway.api.scalars import Factor, Latency, Money, PositiveMoney, Seconds, Share


class Credentials(KubeModel):
    """How requests are signed; the key itself lies in the Secret spillway-provider-keys."""

    key: SecretKeyName
    """Key of the Secret spillway-provider-keys in the operator's namespace."""
    header: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9-]+$")] = "Authorization"
    """HTTP header that carries the key. Default: Authorization."""
    prefix: Annotated[str, Field(max_length=64)] = "Bearer "
    """What stands before the key in the header. Default: "Bearer "."""


class PriceTier(KubeModel):
    """Prices of requests with long prompts, in US dollars per million tokens."""

    above_input_tokens: Annotated[int, Field(ge=1, le=10_485_760), Keywords(format="int32")]
    """Prompt length above which a whole request costs this, in tokens."""
    input: PositiveMoney
    """Prompt tokens, in US dollars per million."""
    cached_input: Money | None = None
    """Prompt tokens that the provider had cached, in US dollars per million. Default: the price of input."""
    cache_write: Money | None = None
    """Prompt tokens that the provider writes to its cache, in US dollars per million. Default: the price of input."""
    output: PositiveMoney
    """Completion tokens, in US dollars per million."""


class TokenPrice(KubeModel):
    """Prices in US dollars per million tokens."""

    input: PositiveMoney
    """Prompt tokens, in US dollars per million."""
    cached_input: Money | None = None
    """Prompt tokens that the provider had cached, in US dollars per million. Default: the price of input."""
    cache_write: Money | None = None
    """Prompt tokens that the provider writes to its cache, in US dollars per million. Default: the price of input."""
    output: PositiveMoney
    """Completion tokens, in US dollars per million."""
    tiers: Annotated[tuple[PriceTier, ...], Field(max_length=8), ListType("map", "aboveInputTokens")] = ()
    """Other prices for requests with long prompts; the highest tier that a prompt exceeds counts. Default: none."""


class ProviderModel(KubeModel):
    """A model that the provider offers."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "!has(self.price.tiers) || self.price.tiers.all(tier, tier.aboveInputTokens < self.contextLength)",
                "aboveInputTokens of a tier must be less than contextLength",
                field=".price.tiers",
            ),
            cel(
                "self.maxOutputTokens <= self.contextLength",
                "maxOutputTokens must not be more than contextLength",
                field=".maxOutputTokens",
            ),
        )
    )

    name: Annotated[str, Field(min_length=1, max_length=128)]
    """Name of the model at the provider."""
    price: TokenPrice
    """Prices in US dollars per million tokens."""
    context_length: Annotated[int, Field(ge=1, le=10_485_760), Keywords(format="int32")] = 131_072
    """Longest prompt plus answer that the provider takes, in tokens. Default: 131072."""
    max_output_tokens: Annotated[int, Field(ge=1, le=10_485_760), Keywords(format="int32")] = 8192
    """Longest answer that Spillway asks for, in tokens; bounds what one request can cost. Default: 8192."""
    drop_fields: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=32), ListType("set")
    ] = ()
    """Request fields that the provider would refuse and that are removed, such as top_k. Default: none."""
    verbosity: Factor | None = None
    """Tokens of its answers relative to those of the self-hosted model for the same task, for example 1.2. Default:
    1, until measured."""

    @model_validator(mode="after")
    def _answer_within_context(self) -> ProviderModel:
        if self.max_output_tokens > self.context_length:
            raise ValueError(
                f"maxOutputTokens is {self.max_output_tokens} and contextLength is {self.context_length}: "
                "lower maxOutputTokens"
            )
        for tier in self.price.tiers:
            if tier.above_input_tokens >= self.context_length:
                raise ValueError(
                    f"price.tiers has aboveInputTokens {tier.above_input_tokens} and contextLength is "
                    f"{self.context_length}: no request is that long, lower it or remove the tier"
                )
        return self


class ProviderLimits(KubeModel):
    """What the provider takes."""

    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000_000), Keywords(format="int32")] | None = None
    """Requests that begin in a minute, over all deployments, models and gateways; more go to the next provider.
    Default: no limit."""
    tokens_per_minute: Annotated[int, Field(ge=1, le=1_000_000_000_000), Keywords(format="int64")] | None = None
    """Prompt and completion tokens in a minute, over all deployments: requests in flight are held so far down that the
    last minute's tokens and theirs stay within it, as far as is known before they end. Default: no limit."""
    concurrent: Annotated[int, Field(ge=1, le=100_000), Keywords(format="int32")] = 64
    """Requests in flight at once, over all deployments. Default: 64."""


class CaSecretKey(KubeModel):
    """A CA certificate (PEM)."""

    key: SecretKeyName
    """Key of the Secret spillway-provider-keys in the operator's namespace."""


class ProviderTls(KubeModel):
    """How the provider's certificate is checked."""

    ca_secret_ref: CaSecretKey | None = None
    """CA that signed the provider's certificate. Default: the system's CAs."""
    server_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Name that the certificate must carry. Default: the host of baseURL."""
    insecure: bool = False
    """Allow an http:// baseURL: keys and prompts cross the network in the clear. Default: false."""


class ProviderTimeouts(KubeModel):
    """How long a request waits for the provider."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "!has(self.firstByte) || !has(self.idle) || duration(self.firstByte) <= duration(self.idle)",
                "firstByte must not be more than idle, which counts from the request on",
                field=".firstByte",
            )
        )
    )

    connect_seconds: Annotated[Latency | None, Field(alias="connect")] = None
    """To connect, the TLS handshake included, as a duration of at most 10m. Default: 5s."""
    first_byte_seconds: Annotated[Latency | None, Field(alias="firstByte")] = None
    """From the request to the headers of the answer, as a duration of at most 10m; the next provider is then tried. An
    answer that is not streamed has none before it is complete. Default: no limit of its own."""
    idle_seconds: Annotated[Latency | None, Field(alias="idle")] = None
    """Longest silence of the provider, the waits for the headers and for the first token included, as a duration of at
    most 10m. Before the headers the next provider is then tried, later the answer is cut. Default: the gateway's, which
    is 1h."""

    @model_validator(mode="after")
    def _first_byte_within_idle(self) -> ProviderTimeouts:
        first_byte, idle = self.first_byte_seconds, self.idle_seconds
        if first_byte is not None and idle is not None and first_byte > idle:
            raise ValueError(
                f"firstByte is {first_byte:g}s and idle is {idle:g}s, which counts from the request on: "
                "lower firstByte or raise idle"
            )
        return self


class ExternalProviderSpec(KubeModel):
    """Address, key, models and prices."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "self.baseURL.startsWith('https://') || (has(self.tls) && self.tls.insecure)",
                "baseURL must start with https:// unless tls.insecure is true",
                field=".baseURL",
            )
        )
    )

    base_url: Annotated[str, Field(max_length=512, pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[^\s?#]*)?$")]
    """Address below which /chat/completions lies, for example https://api.z.ai/api/paas/v4."""
    suspend: bool = False
    """True: nothing more is sent to this provider, within seconds. Default: false."""
    credentials: Credentials
    """How requests are signed."""
    models: Annotated[tuple[ProviderModel, ...], Field(min_length=1, max_length=64), ListType("map", "name")]
    """Models that the provider offers, with prices."""
    limits: ProviderLimits = ProviderLimits()
    """What the provider takes."""
    allowed_namespaces: Namespaces = ()
    """Namespaces whose requests may be sent there. Default: none."""
    tls: ProviderTls = ProviderTls()
    """How the provider's certificate is checked."""
    timeouts: ProviderTimeouts = ProviderTimeouts()
    """How long a request waits for the provider."""

    @model_validator(mode="after")
    def _encrypted(self) -> ExternalProviderSpec:
        if not self.base_url.startswith("https://") and not self.tls.insecure:
            raise ValueError(f"baseURL is {self.base_url!r}: use https:// or set tls.insecure to true")
        return self

    def allows(self, namespace: str) -> bool:
        """Whether requests of a namespace may be sent to the provider."""
        return namespace in self.allowed_namespaces

    def model(self, name: str) -> ProviderModel | None:
        """The provider's model of that name, or None."""
        return next((model for model in self.models if model.name == name), None)


class ExternalProviderStatus(KubeModel):
    """What Spillway knows of the provider."""

    observed_generation: Annotated[int, Keywords(format="int64")] | None = None
    """The metadata.generation that this status speaks of."""
    spent_today: Money | None = None
    """What was spent there since midnight UTC, in US dollars."""
    error_rate: Share | None = None
    """Share of the requests of the last minute that were refused or got no answer, 0 to 1; absent without requests. The
    client's own faults (400, 413, 422) do not count."""
    time_to_first_token_seconds: Annotated[Seconds | None, Field(alias="timeToFirstToken")] = None
    """Median time from a request to the first byte of its stream, over the last five minutes, as a duration; absent
    without streams."""
    conditions: Conditions = ()
    """Ready, Healthy, Credentials, NotActedOn."""


class ExternalProvider(Resource):
    """An external API with its prices, and who may send requests there."""

    definition: ClassVar[Definition] = Definition(
        kind="ExternalProvider",
        plural="externalproviders",
        short_names=("xprov",),
        namespaced=False,
        rules=(NAME_RULE,),
        columns=(
            Column("URL", ".spec.baseURL", "Address of the API."),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status', "Whether requests may spill there."),
            Column("Healthy", '.status.conditions[?(@.type=="Healthy")].status', "Whether it answers."),
            Column("Today($)", ".status.spentToday", "What was spent there today (UTC)."),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready or not."),
            Column("Age", ".metadata.creationTimestamp", "Time since creation.", type="date"),
            Column("Errors", ".status.errorRate", "Share of the last minute's requests that failed.", wide=True),
            Column("TTFT", ".status.timeToFirstToken", "Median time to the first token.", wide=True),
            Column("Models", ".spec.models[*].name", "Models that it offers.", wide=True),
            Column("Namespaces", ".spec.allowedNamespaces", "Who may send requests there.", wide=True),
            Column("Message", '.status.conditions[?(@.type=="Ready")].message', "Ready, in words.", wide=True),
        ),
    )
    status_model: ClassVar[type[KubeModel]] = ExternalProviderStatus

    spec: ExternalProviderSpec
    """Address, key, models and prices."""
    status: ExternalProviderStatus = ExternalProviderStatus()
    """What Spillway knows of the provider."""
