"""GitHub's workflows: least rights, pinned, about things that exist; actionlint (ci.yaml) looks after the syntax."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from e2e.cluster import binaries

REPOSITORY = Path(__file__).resolve().parents[2]
GITHUB = REPOSITORY / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yaml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yaml"))
PINNED = re.compile(r"uses: (?P<action>[\w.-]+/[\w./-]+)@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
IMAGE = re.compile(r"kindest/node:v(?P<version>\d+\.\d+)\.\d+@sha256:[0-9a-f]{64}")

Yaml = dict[str, Any]


class Loader(yaml.SafeLoader):
    """YAML 1.2's booleans, as GitHub reads them: `on` is a word."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


def read(path: Path) -> Yaml:
    loaded: Yaml = yaml.load(path.read_text(), Loader)
    return loaded


def steps(path: Path) -> Iterator[Yaml]:
    """All steps of a workflow or of a composite action."""
    document = read(path)
    if "runs" in document:
        yield from document["runs"]["steps"]
    for job in document.get("jobs", {}).values():
        yield from job.get("steps", [])


def scripts() -> str:
    """All shell that the workflows run."""
    return "\n".join(step["run"] for path in (*WORKFLOWS, *ACTIONS) for step in steps(path) if "run" in step)


def by_name(path: Path) -> str:
    return str(path.relative_to(GITHUB))


def test_there_are_workflows() -> None:
    assert {path.stem for path in WORKFLOWS} >= {"ci", "release", "locks"}
    assert ACTIONS


@pytest.mark.parametrize("path", WORKFLOWS, ids=by_name)
def test_a_workflow_may_only_read_and_a_job_names_what_more_it_needs(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert isinstance(job.get("permissions", {}), dict), f"{name}: neither write-all nor read-all"


@pytest.mark.parametrize("path", WORKFLOWS, ids=by_name)
def test_every_job_ends_and_no_two_runs_are_in_each_others_way(path: Path) -> None:
    workflow = read(path)
    assert workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert "uses" in job or 0 < job["timeout-minutes"] <= 75, name


def test_a_called_workflow_is_not_in_the_concurrency_group_of_its_caller() -> None:
    # Else the release would wait for itself, or cancel itself.
    groups = [read(path)["concurrency"]["group"].partition("-${{")[0] for path in WORKFLOWS]
    assert len(set(groups)) == len(groups)


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=by_name)
def test_every_action_is_pinned_by_commit_with_its_version(path: Path) -> None:
    lines = [line.strip().removeprefix("- ") for line in path.read_text().splitlines()]
    used = [line for line in lines if line.startswith("uses: ")]
    assert used
    assert [line for line in used if not PINNED.fullmatch(line) and not line.startswith("uses: ./")] == []


def test_one_action_has_one_pin() -> None:
    pins: dict[str, set[str]] = {}
    for path in (*WORKFLOWS, *ACTIONS):
        for line in path.read_text().splitlines():
            if found := PINNED.search(line):
                pins.setdefault(found["action"].replace("/restore", "").replace("/save", ""), set()).add(
                    line.partition("@")[2]
                )
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


@pytest.mark.parametrize("path", WORKFLOWS, ids=by_name)
def test_a_checkout_leaves_no_token_behind(path: Path) -> None:
    checkouts = [step for step in steps(path) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=by_name)
def test_no_expression_is_put_into_a_script(path: Path) -> None:
    # What others name (branches, titles, tags) reaches a script as a variable, never as code.
    assert [step["run"] for step in steps(path) if "${{" in step.get("run", "")] == []


def test_make_targets_that_are_run_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    run = set(re.findall(r"^\s*make ([a-z0-9-]+)", scripts(), re.MULTILINE))
    assert run >= {"unit", "integration", "e2e", "lint", "types", "contracts", "verify", "lock"}
    assert run <= targets


def test_files_that_are_named_exist() -> None:
    workflows = "\n".join(path.read_text() for path in (*WORKFLOWS, *ACTIONS))
    named = set(re.findall(r"(?<![\w./~-])(?:images|e2e|requirements|\.github|crds|manifests)/[\w./*-]*\w", workflows))
    named |= {call.removeprefix("./") for call in re.findall(r"uses: (\./\S+)", workflows)}
    assert len(named) > 6
    assert [name for name in sorted(named) if not list(REPOSITORY.glob(name.rstrip("*").rstrip("/")))] == []


def test_modules_that_are_run_exist() -> None:
    modules = set(re.findall(r"python -m ([\w.]+)", scripts()))
    assert modules
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_the_cache_of_programs_is_asked_for_by_the_key_that_it_is_filled_under() -> None:
    keys = {
        step["with"]["key"]
        for path in (*WORKFLOWS, *ACTIONS)
        for step in steps(path)
        if step.get("uses", "").startswith("actions/cache/restore@")
    }
    assert len(keys) == 1
    for named in re.findall(r"'([^']+)'", keys.pop()):
        assert list(REPOSITORY.glob(named)), named


def test_kind_runs_the_oldest_and_the_newest_supported_kubernetes() -> None:
    tried = read(GITHUB / "workflows" / "ci.yaml")["jobs"]["kind"]["strategy"]["matrix"]["include"]
    versions = []
    for entry in tried:
        image = IMAGE.fullmatch(entry["image"])
        assert image, f"{entry['image']}: a version and a digest"
        assert image["version"] == entry["kubernetes"]
        versions.append(tuple(map(int, image["version"].split("."))))
    newest = tuple(map(int, binaries.pinned_version("kubernetes").removeprefix("v").split(".")[:2]))
    assert versions == [binaries.OLDEST_KUBERNETES, newest]


def test_renovate_keeps_the_oldest_kubernetes() -> None:
    rules = json.loads((GITHUB / "renovate.json").read_text())["packageRules"]
    (kept,) = [rule for rule in rules if rule.get("matchPackageNames") == ["kindest/node"]]
    oldest = "v{}.{}.".format(*binaries.OLDEST_KUBERNETES)
    for field in ("matchCurrentVersion", "allowedVersions"):
        assert re.search(kept[field].strip("/"), f"{oldest}11"), field
        assert not re.search(kept[field].strip("/"), "v1.37.0"), field


def test_renovates_patterns_find_something() -> None:
    for manager in json.loads((GITHUB / "renovate.json").read_text())["customManagers"]:
        (files,) = (re.compile(pattern.strip("/")) for pattern in manager["managerFilePatterns"])
        # Renovate's own syntax for a named group is JavaScript's.
        (wanted,) = (re.compile(pattern.replace("(?<", "(?P<")) for pattern in manager["matchStrings"])
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        found = [name for name in listed if files.search(name) and wanted.search((REPOSITORY / name).read_text())]
        assert found, manager["description"]


def test_the_gate_waits_for_every_job() -> None:
    jobs = read(GITHUB / "workflows" / "ci.yaml")["jobs"]
    assert set(jobs["ci"]["needs"]) == set(jobs) - {"ci"}


def test_a_release_is_tested_before_anything_is_pushed() -> None:
    jobs = read(GITHUB / "workflows" / "release.yaml")["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/ci.yaml"

    def before(name: str) -> set[str]:
        needs = jobs[name].get("needs", [])
        direct = {needs} if isinstance(needs, str) else set(needs)
        return direct.union(*(before(job) for job in direct))

    pushing = [name for name, job in jobs.items() if "write" in job.get("permissions", {}).values()]
    assert pushing
    assert all({"check", "test"} <= before(name) for name in pushing)


@pytest.fixture(scope="module")
def release() -> ModuleType:
    specification = importlib.util.spec_from_file_location("release", GITHUB / "scripts" / "release.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path, release: ModuleType) -> Path:
    """The files that name the version, as they are, with a section for it in the changelog."""
    for name in release.versions():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\nLater.\n\n"
        f"## {current(release)} (2026-12-01)\n\nThe first slice.\n\n- More.\n\n## 0.0.1\n\nEarlier.\n"
    )
    return tmp_path


def current(release: ModuleType) -> str:
    (version,) = release.versions()["pyproject.toml"]
    return str(version)


def test_all_files_name_one_version(release: ModuleType) -> None:
    assert {name: found for name, found in release.versions().items() if found != {current(release)}} == {}


def test_a_tag_that_is_the_version_is_released_with_the_notes_of_the_changelog(tree: Path, release: ModuleType) -> None:
    release.check(f"v{current(release)}", tree)
    assert release.notes(current(release), tree) == "The first slice.\n\n- More.\n"


@pytest.mark.parametrize("tag", ["v9.9.9", "v9.9.9-rc.1", "9.9.9", "v9.9", "main"])
def test_another_tag_is_refused(tree: Path, release: ModuleType, tag: str) -> None:
    with pytest.raises(release.ReleaseError, match=re.escape(tag)):
        release.check(tag, tree)


@pytest.mark.parametrize(
    "name",
    [
        "pyproject.toml",
        "manifests/base/operator.yaml",
        "manifests/base/gateway.yaml",
        "manifests/install.yaml",
        "manifests/helm/spillway/Chart.yaml",
    ],
)
def test_a_file_that_was_left_behind_is_named(tree: Path, release: ModuleType, name: str) -> None:
    version = current(release)
    (tree / name).write_text((tree / name).read_text().replace(version, "9.9.9"))
    with pytest.raises(release.ReleaseError, match=re.escape(f"{name} has")):
        release.check(f"v{version}", tree)


def test_a_file_that_names_no_version_is_told(tree: Path, release: ModuleType) -> None:
    (tree / "manifests/base/gateway.yaml").write_text("image: another/gateway:1\n")
    with pytest.raises(release.ReleaseError, match=r"gateway\.yaml has none"):
        release.check(f"v{current(release)}", tree)


def test_a_version_without_notes_is_refused(tree: Path, release: ModuleType) -> None:
    (tree / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\nAll of it.\n")
    with pytest.raises(release.ReleaseError, match="rename '## Unreleased'"):
        release.check(f"v{current(release)}", tree)


def test_the_script_says_what_is_wrong_and_fails() -> None:
    script = str(GITHUB / "scripts" / "release.py")
    refused = subprocess.run([sys.executable, script, "check", "v9.9.9"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("::error::the tag is v9.9.9, but pyproject.toml has ")
    assert subprocess.run([sys.executable, script], capture_output=True, check=False).returncode == 2


def test_what_to_verify_a_release_with_is_told_as_it_is_done() -> None:
    told = (REPOSITORY / "SECURITY.md").read_text()
    for command in ("cosign verify ", "cosign verify-blob checksums.txt --bundle checksums.txt.sigstore.json"):
        assert command in told
        assert command in scripts()
    issuer = re.compile(r"(?:ISSUER=|--certificate-oidc-issuer )(https://\S+)")
    assert set(issuer.findall(told)) == set(issuer.findall(scripts())) != set()
    assert ".github/workflows/release.yaml@refs/tags/v" in told
