"""Which inference engine runs the model, and what its owner adds to the command line."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spillway.api.markers import Keywords, ListType, Rules, cel
from spillway.api.model import EngineVersion
from spillway.api.resource import KubeModel
from spillway.api.rules import RESERVED_FLAGS, reserved_flags

EngineName = Literal["vLLM", "SGLang"]


class EnvironmentVariable(KubeModel):
    """An environment variable of the engine."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Value of the variable. Default: empty."""


class Overrides(KubeModel):
    """Engine limits that the catalog would otherwise choose."""

    max_model_len: Annotated[int, Field(ge=1, le=10_485_760), Keywords(format="int32")] | None = None
    """Longest context, in tokens. Default: what the model supports."""
    max_num_seqs: Annotated[int, Field(ge=1, le=65536), Keywords(format="int32")] | None = None
    """Requests that one replica runs at once. Default: from the catalog's decode rate."""


class Engine(KubeModel):
    """Which inference engine runs the model, and how."""

    name: EngineName = "vLLM"
    """vLLM or SGLang. Default: vLLM."""
    version: EngineVersion | None = None
    """Version of the engine, for example 0.33.0. Default: the catalog's."""
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Container image; must hold the engine in that version. Default: the engine's own image of that version."""
    extra_args: Annotated[
        tuple[Annotated[str, Field(max_length=1024)], ...],
        Field(max_length=64),
        ListType("atomic"),
        Rules(
            cel(
                f"self.all(arg, !arg.matches('^({'|'.join(RESERVED_FLAGS)})(=.*)?$'))",
                f"Spillway sets {', '.join(RESERVED_FLAGS)} itself",
            )
        ),
    ] = ()
    """Arguments added to the engine's command line, last. Default: none."""
    env: Annotated[tuple[EnvironmentVariable, ...], Field(max_length=64), ListType("map", "name")] = ()
    """Environment variables of the engine. Default: none."""
    overrides: Overrides = Overrides()
    """Limits in place of the catalog's."""

    @model_validator(mode="after")
    def _extra_args_are_free(self) -> Engine:
        if taken := reserved_flags(self.extra_args):
            raise ValueError(f"extraArgs has {', '.join(taken)}, which Spillway sets itself: remove it")
        return self
