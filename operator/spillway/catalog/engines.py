"""What is known of an engine."""

from __future__ import annotations

from pydantic import field_validator

from spillway.catalog.entry import Entry, VersionText
from spillway.catalog.rules import Rule


class EngineFacts(Entry):
    """An engine: default version, image with ``{version}``, arguments and environment for every model."""

    name: str
    version: VersionText
    image: str
    rules: tuple[Rule, ...] = ()
    source: str = ""

    @field_validator("image")
    @classmethod
    def _one_place_for_the_version(cls, image: str) -> str:
        if image.replace("{version}", "").count("{"):
            raise ValueError("only {version} may stand in braces")
        return image
