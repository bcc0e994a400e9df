"""The kind Simulation: what a scenario says beside the objects that one would apply. Not a CRD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from spillway.api.resource import camel_case
from spillway.api.scalars import Money, Seconds, Timestamp
from spillway.simulate.synthetic import Synthetic
from spillway.simulate.world import Window

API_VERSION = "spillway.dev/simulation"
KIND = "Simulation"
MAXIMUM_DAYS = 92
DEFAULT_BEGIN = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday

_MOST = {  # of synthetic demand: beyond these it is a mistake, and takes the machine's memory or an hour
    "requests_per_second": 1e6,
    "input_tokens": 1e7,
    "output_tokens": 1e7,
    "token_cv": 100.0,
    "peak_to_trough": 1e6,
    "peak_hour": 24.0,
    "weekend_factor": 100.0,
    "arrival_cv": 100.0,
    "spikes_per_day": 1000.0,
    "spike_factor": 1000.0,
    "spike_minutes": 1e5,
    "launches": 1000,
    "launch_factor": 10.0,
    "tenants": 100,
    "tenants_share": 1000.0,
    "tenant_on_minutes": 1e5,
    "tenant_off_minutes": 1e5,
}


def spelled(name: str) -> str:
    """``delay_cv`` -> ``delayCV``: how a field is written."""
    camel = camel_case(name)
    return camel[:-2] + "CV" if name.endswith("_cv") else camel


class Strict(BaseModel):
    """camelCase; what is not known is a mistake."""

    model_config = ConfigDict(alias_generator=spelled, extra="forbid", frozen=True, allow_inf_nan=False)


class Times(Strict):
    """From when to when, since the begin."""

    begin: Annotated[Seconds, Field(alias="from")]
    end: Annotated[Seconds, Field(alias="to")]

    @model_validator(mode="after")
    def _in_order(self) -> Times:
        if self.begin >= self.end:
            raise ValueError(f"from is {self.begin:g} s and to is {self.end:g} s: from must come first")
        return self

    @property
    def window(self) -> Window:
        return self.begin, self.end


def _synthetic(given: object) -> Synthetic:
    if isinstance(given, Synthetic):
        return given
    if not isinstance(given, Mapping):
        raise ValueError("write a mapping such as {requestsPerSecond: 20, peakHour: 15}, or {} for the defaults")
    known = {spelled(f.name): f.name for f in fields(Synthetic) if f.name in _MOST}
    values: dict[str, Any] = {}
    for key, value in given.items():
        if not isinstance(key, str) or key not in known:
            raise ValueError(f"{key!r} is not known: use one of {', '.join(known)}")
        name, most = known[key], _MOST[known[key]]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise ValueError(f"{key} is {value!r}: give a number from 0 to {most:g}")
        if isinstance(most, int) and not isinstance(value, int):
            raise ValueError(f"{key} is {value!r}: give a whole number")
        values[name] = value
    try:
        return Synthetic(**values)
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        raise ValueError(f"{spelled(name)} {rest}") from error


class DemandSpec(Strict):
    """What arrives at one deployment, and how far a replica is from what Spillway believes."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    trace: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    synthetic: Annotated[Synthetic, BeforeValidator(_synthetic)] | None = None
    fleet: Annotated[float, Field(gt=0, le=10_000)] | None = None
    capacity_error: Annotated[float, Field(ge=-3, le=0.9)] = 0.0
    ready_at_begin: Annotated[int, Field(ge=0, le=1000)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> DemandSpec:
        if (self.trace is None) == (self.synthetic is None):
            raise ValueError("give either trace: FILE or synthetic: {…}")
        return self


class FaultsSpec(Strict):
    """Cold starts that differ and fail, metrics that are late or lost."""

    delay_cv: Annotated[float, Field(ge=0, le=10)] = 0.0
    start_failure_share: Annotated[float, Field(ge=0, le=0.95)] = 0.0
    metrics_delay: Annotated[Seconds, Field(le=86_400)] = 0.0
    metrics_lost: tuple[Times, ...] = ()


class PoolSpec(Strict):
    """What a pool has, and when it gives nothing."""

    gpus: Annotated[int, Field(ge=0, le=100_000)] | None = None
    stock_outs: tuple[Times, ...] = ()


class PriceChangeSpec(Strict):
    """New prices from a time on."""

    at: Seconds
    model: str | None = None
    input: Money
    output: Money


class ProviderSpec(Strict):
    """When a provider answers nothing, what it takes, what it will cost."""

    outages: tuple[Times, ...] = ()
    price_changes: tuple[PriceChangeSpec, ...] = ()
    requests_per_minute: Annotated[float, Field(ge=0, le=1e9)] | None = None
    first_token: Annotated[Seconds, Field(le=3600)] = 1.0  # where single requests are played
    tokens_per_second: Annotated[float, Field(ge=1e-3, le=1e6)] = 25.0


class SimulationSpec(Strict):
    """When, how long, what arrives, what goes wrong."""

    begin: Timestamp = DEFAULT_BEGIN
    days: Annotated[float, Field(gt=0, le=MAXIMUM_DAYS)] | None = None
    hours: Annotated[float, Field(gt=0, le=24 * MAXIMUM_DAYS)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    tick: Annotated[Seconds, Field(ge=1, le=3600)] = 10.0
    metrics_window: Annotated[Seconds, Field(ge=10, le=3600)] = 60.0  # the operator's default
    drain: Annotated[Seconds, Field(le=3600)] = 60.0
    deployments: Annotated[dict[str, DemandSpec], Field(min_length=1)]
    faults: FaultsSpec = FaultsSpec()
    pools: dict[str, PoolSpec] = {}
    providers: dict[str, ProviderSpec] = {}
    policies: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _sound(self) -> SimulationSpec:
        if self.days is not None and self.hours is not None:
            raise ValueError("days and hours are both given: keep one")
        if not 1970 < self.begin.year < 2200:
            raise ValueError(f"begin is {self.begin:%Y-%m-%d}: give a moment between 1971 and 2199")
        return self

    @property
    def seconds(self) -> float | None:
        """How long is simulated; None: as long as there is demand."""
        if self.hours is not None:
            return self.hours * 3600
        return None if self.days is None else self.days * 86_400


class SimulationName(BaseModel):
    """Metadata of a Simulation: nobody needs more than a name."""

    name: Annotated[str, Field(max_length=253)] = "scenario"


class Simulation(Strict):
    """The whole document."""

    api_version: Literal["spillway.dev/simulation"]
    kind: Literal["Simulation"]
    metadata: SimulationName = SimulationName()
    spec: SimulationSpec
