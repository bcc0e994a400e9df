"""Where requests go: what users are promised, what may spill, what is routed away, and known events."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from spillway.api.markers import Keywords, ListType, Rules, cel, model_rules
from spillway.api.resource import KubeModel
from spillway.api.rules import ObjectName, TimeZone
from spillway.api.scalars import Latency, SecondsWithoutDays, Share

SpillReason = Literal["Saturated", "ColdStart", "NoCapacity", "Unavailable", "Rollout"]
Balancing = Literal["PrefixAffinity", "LeastRequest"]

WEEK_SECONDS = 604_800
_PROVIDER_MODEL = Field(min_length=1, max_length=128)
_CRON_RANGES = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
_CRON_ITEM = r"(\*|[0-9]{1,2}(-[0-9]{1,2})?)(/[1-9][0-9]?)?"
_CRON_FIELD = rf"{_CRON_ITEM}(,{_CRON_ITEM})*"


class Slo(KubeModel):
    """What users are promised."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "!has(self.timeToFirstToken) || duration(self.timeToFirstToken).getSeconds() >= self.queueSeconds",
                "queueSeconds must not be more than timeToFirstToken, which includes the queue",
                field=".queueSeconds",
            )
        )
    )

    queue_seconds: Annotated[int, Field(ge=0, le=600), Keywords(format="int32")] = 10
    """How long a request may wait for a free replica before it spills, in seconds. Default: 10."""
    time_to_first_token_seconds: Annotated[Latency | None, Field(alias="timeToFirstToken")] = None
    """Time to the first token, the queue included, that replicas are sized for: a duration such as 15s. Default: only
    the queue counts."""
    inter_token_latency_seconds: Annotated[Latency | None, Field(alias="interTokenLatency")] = None
    """Time between two tokens of an answer that replicas are sized for: a duration such as 60ms. Default: as fast as
    the replica's throughput allows."""

    @model_validator(mode="after")
    def _queue_is_part_of_the_first_token(self) -> Slo:
        first_token = self.time_to_first_token_seconds
        if first_token is not None and self.queue_seconds > first_token:
            raise ValueError(
                f"queueSeconds is {self.queue_seconds} and timeToFirstToken is {first_token:g}s, which includes the "
                "queue: lower queueSeconds or raise timeToFirstToken"
            )
        return self


class SpillTarget(KubeModel):
    """A model of an external provider that may answer in place of the replicas."""

    name: ObjectName
    """Name of an ExternalProvider."""
    model: Annotated[str, _PROVIDER_MODEL]
    """Model of that provider, as listed there."""


SpillOrder = Literal["Cheapest", "AsListed"]


class Spill(KubeModel):
    """Where requests go that the replicas cannot take."""

    providers: Annotated[tuple[SpillTarget, ...], Field(max_length=8), ListType("map", "name", "model")] = ()
    """Providers that may answer; each attempt needs budget from a CostPolicy. Default: none, so no spill."""
    order: SpillOrder = "Cheapest"
    """Cheapest: the provider at which a request costs least is tried first, verbosity included; those within 5 % in the
    order of the list. AsListed: in the order of the list. One that fails is tried last for five minutes. Default:
    Cheapest."""
    # Not "on", which YAML 1.1, and so kubectl, reads as true.
    when: Annotated[tuple[SpillReason, ...], Field(max_length=5), ListType("set")] = (
        "Saturated",
        "ColdStart",
        "NoCapacity",
        "Unavailable",
        "Rollout",
    )
    """When requests may spill. Saturated: replicas are full. ColdStart: replicas are starting. NoCapacity: the pools
    have no GPUs. Unavailable: replicas failed. Rollout: replicas are being replaced. Default: all."""
    max_share: Share | None = None
    """Largest share of the tokens of the trailing hour that may spill while a replica is ready, 0 to 1; routes do not
    count. Default: no limit."""
    hold_seconds: Annotated[int, Field(ge=0, le=900), Keywords(format="int32")] | None = None
    """How long a request may wait for the first replica when no provider is permitted, in seconds; 0: it is refused at
    once. Default: 1.5 times the 90th percentile of cold starts in whole minutes, at most 900."""

    @property
    def on_every_occasion(self) -> bool:
        """Whether `when` leaves nothing out."""
        return set(get_args(SpillReason)) <= set(self.when)


class HeaderMatch(KubeModel):
    """A request header."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9-]+$")]
    """Name of the header, in any case."""
    value: Annotated[str, Field(min_length=1, max_length=256)]
    """Exact value of the header."""


class RouteMatch(KubeModel):
    """Which requests a route takes: exactly one of header, percent and model."""

    model_config = ConfigDict(
        json_schema_extra=model_rules(
            cel(
                "[has(self.header), has(self.percent), has(self.model)].filter(given, given).size() == 1",
                "give exactly one of header, percent and model",
            )
        )
    )

    header: HeaderMatch | None = None
    """Requests with this header. Default: not matched by header."""
    percent: Annotated[int, Field(ge=1, le=100), Keywords(format="int32")] | None = None
    """So many of 100 requests that no other route takes. Default: not matched by percentage."""
    model: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Requests that name this model. Default: not matched by model."""

    @model_validator(mode="after")
    def _exactly_one(self) -> RouteMatch:
        given = [name for name in ("header", "percent", "model") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"has {' and '.join(given) or 'nothing'}: give exactly one of header, percent and model")
        return self


class RouteTarget(KubeModel):
    """A model of an external provider."""

    provider: ObjectName
    """Name of an ExternalProvider."""
    model: Annotated[str, _PROVIDER_MODEL]
    """Model of that provider, as listed there."""


class Route(KubeModel):
    """Requests that always go to a provider."""

    name: Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Name of the route, for example premium."""
    match: RouteMatch
    """Which requests it takes."""
    to: RouteTarget
    """Where they go."""


def _at_most_all(routes: tuple[Route, ...]) -> tuple[Route, ...]:
    if (total := sum(route.match.percent or 0 for route in routes)) > 100:
        raise ValueError(f"the percentages add up to {total}: lower them to at most 100 together")
    return routes


Routes = Annotated[
    tuple[Route, ...],
    Field(max_length=16),
    ListType("map", "name"),
    AfterValidator(_at_most_all),
    Rules(
        cel(
            "self.map(route, has(route.match.percent) ? route.match.percent : 0).sum() <= 100",
            "the percentages of the routes must add up to at most 100",
        )
    ),
]


class Hint(KubeModel):
    """A known event that no history shows."""

    schedule: Annotated[str, Field(max_length=128, pattern=rf"^{_CRON_FIELD}( {_CRON_FIELD}){{4}}$")]
    """When it begins, as minute, hour, day of month, month and day of week in numbers, as cron has them (0 and 7 are
    Sunday): 0 8 * * 1-5."""
    time_zone: TimeZone = "UTC"
    """IANA time zone of the schedule, for example Europe/Berlin. Default: UTC."""
    duration_seconds: Annotated[
        SecondsWithoutDays,
        Field(alias="duration", gt=0, le=WEEK_SECONDS),
        Rules(
            cel(
                "duration(self) > duration('0s') && duration(self) <= duration('168h')",
                "duration must be more than 0s and at most 168h",
            )
        ),
    ]
    """How long it lasts: a duration such as 2h."""
    min_replicas: Annotated[int, Field(ge=1, le=1000), Keywords(format="int32")]
    """Fewest replicas from its beginning to its end."""

    @field_validator("schedule")
    @classmethod
    def _numbers_in_range(cls, schedule: str) -> str:
        for text, (name, least, most) in zip(schedule.split(" "), _CRON_RANGES, strict=True):
            for item in text.split(","):
                bounds = [int(number) for number in item.partition("/")[0].split("-") if number != "*"]
                if not all(least <= bound <= most for bound in bounds) or bounds != sorted(bounds):
                    raise ValueError(f"{name} is {item!r}: use numbers from {least} to {most}, the lower one first")
        return schedule
