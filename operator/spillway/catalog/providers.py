"""What is known of the external providers: addresses, and prices as of a date. Only the ExternalProvider objects bind:
these are what to write there, and what a model costs elsewhere."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

from spillway.catalog.entry import Entry


def _decimal(value: Any) -> Any:
    return Decimal(str(value)) if isinstance(value, float | int) and not isinstance(value, bool) else value


Usd = Annotated[
    Decimal, BeforeValidator(_decimal), Field(ge=0), PlainSerializer(lambda usd: format(usd, "f"), return_type=str)
]
"""US dollars per million tokens."""


class PriceTier(Entry):
    """Prices of a request whose prompt has more than so many tokens."""

    above_input_tokens: Annotated[int, Field(gt=0)]
    input: Usd
    cached_input: Usd | None = None
    output: Usd


class OfferedModel(Entry):
    """A model at a provider; prices in US dollars per million tokens. Absent: not published, the input price holds."""

    input: Usd
    cached_input: Usd | None = None
    cache_write: Usd | None = None
    output: Usd
    tiers: tuple[PriceTier, ...] = ()
    catalog_model: str | None = None
    """The model of Spillway's catalog that it is."""
    ends: date | None = None
    """When the provider stops serving it."""


class ProviderFacts(Entry):
    """A provider: OpenAI-compatible base URL, how requests are signed, models with prices as of `checked`."""

    name: str
    title: str
    base_url: Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.-]+(/[^\s?#]*)?$")]
    other_urls: tuple[str, ...] = ()
    header: str = "Authorization"
    prefix: str = "Bearer "
    checked: date
    note: str = ""
    source: str
    models: Annotated[dict[str, OfferedModel], Field(min_length=1)]
