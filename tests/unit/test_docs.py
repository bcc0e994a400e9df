"""The docs name what the code has: settings, metrics, conditions, reasons, targets, files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spillway.catalog import load
from spillway.controller.metrics import Metrics
from spillway.controller.settings import OperatorSettings

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")


def page(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text()


def sources(*rooms: str) -> str:
    return "".join(
        p.read_text() for room in rooms for p in sorted((REPOSITORY / "operator/spillway" / room).glob("*.py"))
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    missing = [link for link in LINK.findall(path.read_text()) if not (path.parent / link).exists()]
    assert missing == []


def test_every_setting_is_listed_with_its_default() -> None:
    text = page("development.md")
    for field, info in OperatorSettings.model_fields.items():
        variable = "POD_NAME" if field == "pod_name" else f"SPILLWAY_{field.upper()}"
        default = f"{info.default:g}" if isinstance(info.default, float) else str(info.default)
        row = rf"\| `--{field.replace('_', '-')}` \| `{variable}` \| `?{re.escape(default)}`? \|"
        assert re.search(row, text), field


def test_metrics_are_listed_and_exist() -> None:
    exported = {m.name + ("_total" if m.type == "counter" else "") for m in Metrics().registry.collect()}
    told = {name.partition("{")[0] for name in re.findall(r"^\| `(spillway_[a-z_]+)", page("oncall.md"), re.MULTILINE)}
    assert told == exported


def test_conditions_and_reasons_that_are_written_are_listed() -> None:
    text, code = page("oncall.md"), sources("act", "observe", "controller")
    conditions = set(re.findall(r"ConditionType\.([A-Z_]+)", code))
    reasons = set(re.findall(r"\bReason\.([A-Z_]+)", code))
    assert len(conditions) > 8
    assert len(reasons) > 20
    for name in conditions | reasons:
        spelled = name.title().replace("_", "").replace("Gpu", "GPU")
        assert f"`{spelled}`" in text, spelled


def test_reasons_of_decisions_are_listed() -> None:
    text = page("oncall.md")
    used = set(re.findall(r"\bCode\.([A-Z_]+)", sources("decide", "controller")))
    for name in used:
        spelled = name.title().replace("_", "").replace("Gpu", "GPU")
        assert f"`{spelled}`" in text, spelled


def test_models_and_gpus_of_the_catalog_are_listed() -> None:
    catalog = load()
    for model in catalog.models:
        assert f"`{model}`" in page("users.md"), model
    for gpu in catalog.gpus:
        assert gpu in page("pools.md"), gpu


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))
    # In code only: `make test`, or a line of a block that begins with it.
    told = {t for p in PAGES for t in re.findall(r"(?:`|^)make ([a-z0-9-]+)", p.read_text(), re.MULTILINE)}
    assert told <= targets
    assert {"demo", "test", "e2e", "up", "down"} <= told
