"""The gateway's Lua scripts (the `.lua` files next to this module) as filter configurations.

json.lua and failures.lua are none of them: they stand in front of those that use them.
"""

from __future__ import annotations

import json
from importlib.resources import files

from spillway.gateway import names
from spillway.gateway.desired import Egress
from spillway.gateway.messages import Fields, typed

FILTER_NAME = "envoy.filters.http.lua"

ALWAYS_DROPPED = ("service_tier", "background")
"""Fields that change what a request costs (OpenAI: priority tier) or hide its usage from the answer (background)."""

LEAST_BYTES_PER_TOKEN, MOST_BYTES_PER_TOKEN = 2, 8
"""Of a prompt. Smaller or larger requests are below or above a price's tier, whatever they say."""

LONGEST_OPENING_BYTES = 8192
"""Of a conversation's beginning, what counts for prefix affinity: about 2,000 tokens."""
PROMPT_OPENING_BYTES = 1024
"""The same of a bare prompt, where nothing says which part stays as it is while it grows."""


def _scripts(*names: str) -> str:
    return "".join(files("spillway.gateway").joinpath(name).read_text(encoding="utf-8") for name in names)


def _filter(source: str) -> Fields:
    # The scripts change headers that routes match on; the route that was chosen first must stand.
    return typed(
        FILTER_NAME,
        "extensions.filters.http.lua.v3.Lua",
        default_source_code={"inline_string": source},
        clear_route_cache=False,
    )


def _literal(text: str) -> str:
    """A Lua string literal: decimal escapes for everything that is not plain, so that no name can end it."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in (34, 92) else f"\\{byte:03d}" for byte in text.encode())
    return '"' + "".join(plain) + '"'


def main_filter() -> Fields:
    constants = f"local LONGEST_OPENING = {LONGEST_OPENING_BYTES}\nlocal PROMPT_OPENING = {PROMPT_OPENING_BYTES}\n"
    return _filter(constants + _scripts("json.lua", "main.lua"))


def gate_filter() -> Fields:
    return _filter(_scripts("gate.lua"))


def rate_filter() -> Fields:
    return _filter(_scripts("rate.lua"))


def limited_filter(provider: str) -> Fields:
    constant = f"local RATE = {_literal(names.rate_cluster(provider))}\n"
    return {**_filter(constant + _scripts("limited.lua")), "name": f"{FILTER_NAME}.limited"}


def egress_filter(egress: Egress) -> Fields:
    dropped = sorted({*ALWAYS_DROPPED, *egress.drop_fields})
    sized = (
        (LEAST_BYTES_PER_TOKEN * min(egress.tiers), MOST_BYTES_PER_TOKEN * max(egress.tiers)) if egress.tiers else ()
    )
    constants = (
        f"local MODEL = {_literal(json.dumps(egress.model))}",
        f"local MAX_TOKENS = {int(egress.max_output_tokens)}",
        f"local MAX_CHOICES = {int(egress.max_choices)}",
        f"local DROP = {{ {', '.join(f'[{_literal(name)}] = true' for name in dropped)} }}",
        f"local LEAST_SIZED, MOST_SIZED = {', '.join(str(size) for size in sized) or 'nil'}",
    )
    return _filter("\n".join(constants) + "\n" + _scripts("json.lua", "failures.lua", "egress.lua"))
