"""Builds the images with docker, each under a tag that names its content: what is there already is not built again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from e2e.cluster.kind.docker import Docker
from e2e.cluster.processes import Say
from e2e.cluster.settings import REPOSITORY, cache_directory
from e2e.images.debian import ImageError, make_image, release
from e2e.images.recipes import RECIPES, VERSION, Recipe

_REPORT_SECONDS = 10
_REGISTRY_SECONDS = 20
_GO = REPOSITORY / "e2e" / "cluster" / "go"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def build(docker: Docker, names: Sequence[str], say: Say = print) -> dict[str, str]:
    """Build what is missing of the named images (all of RECIPES' names are known); tags by name.

    A tag such as spillway/operator:0.1.0-1f2e3d4c5b6a names the content; spillway/operator:0.1.0 is the one of now.
    Bases are public images where they are present or can be pulled, else made of Debian packages. Raises
    DockerError or ImageError.
    """
    tags: dict[str, str] = {}
    answers: dict[str, bool] = {}
    for name in names:
        recipe = RECIPES[name]
        tags[name] = _present(docker, recipe) or _build(docker, recipe, _bases(docker, recipe, answers, say), say)
        docker.run("tag", tags[name], f"{recipe.repository}:{VERSION}")  # also when older content came back
    return tags


def tag_of(recipe: Recipe, bases: Mapping[str, str]) -> str:
    """The tag of the image that the repository's files make on these bases."""
    digest = hashlib.sha256(f"{sorted(bases.items())}\n".encode())
    digest.update(recipe.dockerfile.read_bytes())
    for path in _files(recipe.sources()):
        mode = "x" if path.stat().st_mode & 0o100 else "-"
        digest.update(f"\n{path.relative_to(REPOSITORY)} {mode} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return f"{recipe.repository}:{VERSION}-{digest.hexdigest()[:12]}"


def _files(sources: Sequence[Path]) -> Iterator[Path]:
    for source in sources:
        path = REPOSITORY / source
        if path.is_file():
            yield path
            continue
        if not path.is_dir():
            raise ImageError(f"{source}, which a Dockerfile reads, does not exist")
        for file in sorted(path.rglob("*")):
            # As .dockerignore has it: neither bytecode nor the cluster's Go modules.
            if file.is_file() and "__pycache__" not in file.parts and not file.is_relative_to(_GO):
                yield file


def _present(docker: Docker, recipe: Recipe) -> str | None:
    """The tag of an image that is there and up to date, on whichever bases it was built."""
    for bases in (_public(recipe), _debian(recipe)):
        tag = tag_of(recipe, bases) if bases else ""
        if tag and docker.has_image(tag):
            return tag
    return None


def _public(recipe: Recipe) -> dict[str, str]:
    return {"BASE": recipe.default_base()}


def _debian(recipe: Recipe) -> dict[str, str]:
    """Build arguments that name bases made of Debian packages; empty where this machine's Debian cannot be used."""
    try:
        suite = release()
    except ImageError:
        return {}

    def tag(packages: Sequence[str]) -> str:
        digest = hashlib.sha256(f"{suite} {sorted(packages)}".encode()).hexdigest()[:12]
        return f"spillway/debian-{packages[0]}:{suite}-{digest}"

    bases = {"BASE": tag(recipe.packages)}
    if recipe.installer:
        bases["BUILD_BASE"] = tag([*recipe.packages, *recipe.installer])
    return bases


def _bases(docker: Docker, recipe: Recipe, answers: dict[str, bool], say: Say) -> dict[str, str]:
    """Public bases if they are here or a registry has them; else bases of Debian packages, made if missing.

    `answers` remembers which registries were asked in this run. Bases of Debian packages that are here already are
    taken without asking again.
    """
    public, debian = _public(recipe), _debian(recipe)
    if docker.has_image(public["BASE"]):
        return public
    missing = [argument for argument, tag in debian.items() if not docker.has_image(tag)]
    if debian and not missing:
        return debian
    if public["BASE"] not in answers:
        answers[public["BASE"]] = _registry_has(docker, public["BASE"])
    if answers[public["BASE"]]:
        return public
    if not debian:
        raise ImageError(f"{public['BASE']} can be neither found nor pulled, and this is no Debian to make another of")
    say(f"no registry gives {public['BASE']}: a base of Debian packages stands for it")
    for argument in missing:
        packages = [*recipe.packages, *(recipe.installer if argument == "BUILD_BASE" else ())]
        root = cache_directory() / "debian" / debian[argument].replace("/", "-").replace(":", "-")
        changes = ["ENV LANG=C.UTF-8"]
        make_image(docker, debian[argument], root, packages, say, variant="essential", changes=changes)
    return debian


def _registry_has(docker: Docker, image: str) -> bool:
    try:
        return docker.run("manifest", "inspect", image, check=False, timeout=_REGISTRY_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _build(docker: Docker, recipe: Recipe, bases: Mapping[str, str], say: Say) -> str:
    tag = tag_of(recipe, bases)
    log = cache_directory() / "images" / f"{recipe.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    say(f"building {tag}")
    with tempfile.TemporaryDirectory() as secrets, log.open("w") as output:
        program = docker.with_buildkit().program
        command = [program, "build", "--progress=plain", "--network=host", f"--file={recipe.dockerfile}"]
        command += [f"--tag={tag}", *(f"--build-arg={key}={value}" for key, value in bases.items())]
        command += [f"--build-arg={name}" for name in _PROXIES if name in os.environ]
        command += [f"--secret=id={name},src={path}" for name, path in _secrets(Path(secrets)).items()]
        with subprocess.Popen(
            [*command, str(REPOSITORY)],
            env=docker.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as running:
            while True:
                try:
                    running.wait(timeout=_REPORT_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    say(f"  {recipe.name}: {time.monotonic() - started:.0f} s")
    if running.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise ImageError(f"docker build of {recipe.name} failed (all of it: {log}):\n{tail}")
    say(f"  {recipe.name}: built in {time.monotonic() - started:.0f} s")
    return tag


def _secrets(directory: Path) -> dict[str, Path]:
    """What pip needs on this machine to reach its index, which must not stay in an image; see images/install.sh."""
    found = {}
    certificates = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE")
    if certificates and Path(certificates).is_file():
        found["ca-certificates"] = Path(certificates)
    settings = {
        key.removeprefix("PIP_").lower().replace("_", "-"): os.environ[key]
        for key in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
        if os.environ.get(key)
    }
    if settings:
        found["pip.conf"] = directory / "pip.conf"
        found["pip.conf"].touch(mode=0o600)
        found["pip.conf"].write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    return found
