"""The Dockerfiles, their locks and the rules for images; `python -m e2e.images check` looks at the images."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

from e2e.cluster.settings import REPOSITORY
from e2e.images import builder, debian, recipes
from e2e.images.check import Entry, configuration, contents
from e2e.images.recipes import RECIPES, Recipe, sources

LOCKS = {"operator": "operator", "gateway": "gateway", "simulators": "simulators"}
IMPORTS = {
    "operator": "import spillway.controller.process, spillway.cli.main, spillway.cli.explain",
    "gateway": "import spillway.cli.main, spillway.gateway.process; spillway.cli.main.app(['--help'])",
    "simulators": (
        "import openai, e2e.load.__main__, e2e.cluster.discovery, e2e.simulators.provider.__main__,"
        " e2e.simulators.engine.__main__"
    ),
}
GOOD = (
    Entry("usr/bin/python3.11", 0o755, 0, 0),
    Entry("usr/bin/perl", 0o755, 0, 0),
    Entry("opt/spillway/program/spillway/__init__.py", 0o644, 0, 0),
    Entry("opt/spillway/program/spillway/__pycache__/__init__.cpython-311.pyc", 0o644, 0, 0),
    Entry("opt/spillway/lib/python3.11/site-packages/numpy/testing.pyc", 0o644, 0, 0),
    Entry("var/lib/apt/lists/lock", 0o640, 0, 0),
)


def pins(name: str) -> dict[str, str]:
    """Version by package of requirements/<name>.txt."""
    text = (REPOSITORY / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.M))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", [*LOCKS.values(), "operator-build"])
def test_a_lock_has_the_versions_that_the_tests_run_with_and_a_hash_for_each(name: str) -> None:
    text, found, tested = (REPOSITORY / "requirements" / f"{name}.txt").read_text(), pins(name), pins("dev")
    assert found
    assert {package: tested.get(package) for package in found} == found
    assert all("--hash=sha256:" in block for block in re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.M) if "==" in block)


def test_the_operator_lock_has_every_dependency_that_pyproject_names() -> None:
    wanted = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {normal(re.split(r"[<>=!~;\[ ]", line)[0]) for line in wanted} <= pins("operator").keys()


@pytest.mark.parametrize("name", LOCKS)
def test_no_lock_has_tools_or_plotting(name: str) -> None:
    assert not pins(name).keys() & {"pip", "setuptools", "wheel", "matplotlib", "pandas", "plotly", "pytest", "mypy"}


@pytest.mark.parametrize("name", LOCKS)
def test_what_an_image_runs_imports_only_what_its_lock_has(name: str) -> None:
    # The image has no other packages: the same imports must work here without them.
    locked = pins(LOCKS[name]).keys()
    absent = sorted(
        module
        for module, distributions in packages_distributions().items()
        if module not in {"spillway", "e2e"} and not any(normal(each) in locked for each in distributions)
    )
    assert "pytest" in absent
    code = f"import sys\nfor name in {absent!r}: sys.modules[name] = None\n{IMPORTS[name]}"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_a_dockerfile_needs_no_other_image_than_its_base_and_names_its_user(recipe: Recipe) -> None:
    text = recipe.dockerfile.read_text()
    assert not text.startswith("# syntax"), "that would be one more image to pull"
    stages = re.findall(r"^FROM \S+ AS (\S+)$", text, re.M)
    froms = re.findall(r"^FROM (\S+)", text, re.M)
    assert set(froms) <= {"${BASE}", "${BUILD_BASE}", *stages}
    assert froms[-1] == "${BASE}", "the last stage must hold nothing of the stages that build"
    assert re.search(r":v?\d+\.\d+\.\d+", recipe.default_base()), "a base is pinned by its full version"
    assert re.findall(r"^USER (\S+)$", text, re.M)[-1] == recipe.user
    assert 'image.version="${VERSION}"' in text
    assert f"VERSION={recipes.VERSION} " in text
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["version"] == recipes.VERSION


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_docker_is_sent_what_a_dockerfile_reads(recipe: Recipe) -> None:
    rules = (REPOSITORY / ".dockerignore").read_text().splitlines()
    allowed = [Path(rule[1:]) for rule in rules if rule.startswith("!")]
    assert "*" in rules
    for source in recipe.sources():
        assert (REPOSITORY / source).exists(), source
        assert any(source.is_relative_to(path) or source.match(str(path)) for path in allowed), source


def test_sources_are_what_is_copied_and_mounted_but_not_other_stages() -> None:
    text = (
        "FROM a AS b\nRUN --mount=type=bind,source=x/lock.txt,target=/lock.txt --mount=type=secret,id=s true\n"
        "COPY one two/ /there/\nCOPY --from=b /opt /opt\n"
    )
    assert sources(text) == [Path("one"), Path("two"), Path("x/lock.txt")]


def test_the_tag_names_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "REPOSITORY", tmp_path)
    monkeypatch.setattr(recipes, "DOCKERFILES", tmp_path / "images")
    (tmp_path / "images").mkdir()
    (tmp_path / "code").mkdir()
    dockerfile, code = tmp_path / "images" / "some.Dockerfile", tmp_path / "code" / "a.py"
    dockerfile.write_text("ARG BASE=x:1.2.3\nFROM ${BASE}\nCOPY code /code\n")
    code.write_text("1")
    recipe = Recipe("some", "Some", "0:0", 1)
    tags = [builder.tag_of(recipe, {"BASE": "x"})]
    assert builder.tag_of(recipe, {"BASE": "x"}) == tags[0]
    (tmp_path / "code" / "__pycache__").mkdir()
    (tmp_path / "code" / "__pycache__" / "a.pyc").write_text("compiled")
    assert builder.tag_of(recipe, {"BASE": "x"}) == tags[0]
    tags.append(builder.tag_of(recipe, {"BASE": "y"}))
    code.write_text("2")
    tags.append(builder.tag_of(recipe, {"BASE": "x"}))
    code.chmod(0o755)
    tags.append(builder.tag_of(recipe, {"BASE": "x"}))
    dockerfile.write_text(dockerfile.read_text() + "USER 1:1\n")
    tags.append(builder.tag_of(recipe, {"BASE": "x"}))
    assert len(set(tags)) == len(tags)
    assert all(re.fullmatch(rf"spillway/some:{re.escape(recipes.VERSION)}-[0-9a-f]{{12}}", tag) for tag in tags)


def test_a_root_file_system_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "root.packages").write_text("minbase ca-certificates python3\n")
    said: list[str] = []
    debian.root_filesystem(root, ["python3", "ca-certificates"], said.append)
    assert said == []


def test_good_files_pass() -> None:
    assert contents(GOOD) == []


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (Entry("usr/bin/x86_64-linux-gnu-gcc-12", 0o755, 0, 0), "a compiler"),
        (Entry("usr/bin/ld", 0o755, 0, 0), "a compiler"),
        (Entry("usr/local/bin/pip3.11", 0o755, 0, 0), "a package installer"),
        (Entry("usr/lib/python3/dist-packages/pip/__init__.py", 0o644, 0, 0), "a package installer"),
        (Entry("root/.cache/pip/http/a", 0o644, 0, 0), "a cache"),
        (Entry("var/cache/apt/archives/a.deb", 0o644, 0, 0), "a cache"),
        (Entry("opt/spillway/lib/python3.11/site-packages/plotly/data.bin", 0o644, 0, 0), "plotting"),
        (Entry("opt/spillway/lib/python3.11/site-packages/scipy/stats/tests/test_a.py", 0o644, 0, 0), "a test suite"),
        (Entry("root/.netrc", 0o600, 0, 0), "a key"),
        (Entry("usr/bin/su", 0o4755, 0, 0), "setuid"),
        (Entry("opt/spillway/x.so", 0o644, 65532, 0), "does not own"),
        (Entry("opt/spillway/x.so", 0o664, 0, 0), "others can write"),
        (Entry("opt/spillway/program/x.py", 0o644, 0, 0), "without bytecode"),
    ],
)
def test_a_bad_file_is_named(entry: Entry, words: str) -> None:
    complaints = contents([*GOOD, entry])
    assert any(words in complaint and f"/{entry.path} (1 in all)" in complaint for complaint in complaints), complaints


def test_a_bad_configuration_is_named() -> None:
    recipe = Recipe("some", "Some", user="65532:65532", limit_mb=400)
    labels = {f"org.opencontainers.image.{key}": "x" for key in ("title", "version", "base.name")}
    good = {"Size": 400_000_000, "Config": {"User": "65532:65532", "Labels": labels}}
    assert configuration(recipe, good) == []
    bad = {"Size": 400_600_000, "Config": {"User": "", "Labels": None}}
    assert len(configuration(recipe, bad)) == 5


@pytest.fixture
def shrink() -> ModuleType:
    """images/shrink.py, a program of its own, as module."""
    spec = importlib.util.spec_from_file_location("shrink", REPOSITORY / "images" / "shrink.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shrinking_keeps_what_runs(shrink: ModuleType, tmp_path: Path) -> None:
    packages = tmp_path / "python3" / "site-packages"
    files = {
        "plain/__init__.py": '"""Words."""',
        "plain/tests/test_plain.py": "assert True",
        "plain/test/__init__.py": "kept = True  # no test suite, though it is called so",
        "plain/stubs.pyi": "",
        "scipy/__init__.py": "",
        "scipy/stats/__init__.py": "",
        "scipy/optimize.py": "",
        "kubernetes/client/__init__.py": '"""Words."""\nvalue = 1',
        "kubernetes/__init__.py": "",
        "kubernetes/watch.py": "",
        "some_pb2.py": "message = 2",
    }
    for name, text in files.items():
        path = packages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shrink.shrink(tmp_path)
    left = {path.relative_to(packages).as_posix() for path in packages.rglob("*") if path.is_file()}
    sources = {name for name in left if name.endswith(".py")}
    bytecode = {re.sub(r"__pycache__/(\w+)\..+", r"\1.py", name) for name in left if "__pycache__" in name}
    assert sources == {
        *("plain/__init__.py", "plain/test/__init__.py", "scipy/__init__.py", "scipy/optimize.py"),
        *("kubernetes/__init__.py", "kubernetes/watch.py"),
    }
    assert bytecode == sources
    sourceless = {name for name in left if name.endswith(".pyc") and "__pycache__" not in name}
    assert sourceless == {"kubernetes/client/__init__.pyc", "some_pb2.pyc"}
    assert not any(name.endswith(".pyi") for name in left)
    code = "import plain, some_pb2, kubernetes.client as c; print(plain.__doc__, some_pb2.message, c.value, c.__doc__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=packages, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Words.", "2", "1", "None"]
