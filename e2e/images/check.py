"""Are the images what they should be: small, without tools to build or install, and able to run locked down?"""

from __future__ import annotations

import json
import posixpath
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from e2e.cluster.kind.docker import Docker
from e2e.cluster.processes import Say
from e2e.images.recipes import RECIPES, Recipe

_PROBES = Path(__file__).parent / "probes"
_RUN_SECONDS = 120
_LOCKED = ("--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")
_ANY_USER = "31337:31337"  # no such user in any image

_UNWANTED = {
    "a compiler or linker": (
        r"(^|/)bin/([\w.-]+-)?(gcc|g\+\+|cc|c\+\+|cpp|clang|ld|as|make|cmake|go|rustc|cargo)(-[\d.]+)?$"
    ),
    "a package installer": r"(^|/)bin/(pip|uv|conda|poetry|hatch)[\d.]*$|/(pip|ensurepip|hatchling)/__init__\.py",
    "a cache": r"(^|/)\.cache/.+|^var/cache/apt/.+\.(deb|bin)$|^var/lib/apt/lists/.*Packages",
    "plotting": r"/(site|dist)-packages/(matplotlib|plotly|PIL|pandas|seaborn|bokeh)/",
    "a test suite": r"^opt/.*/tests?/(.*/)?(test_\w+|\w+_test)\.py",
    "a key or kubeconfig": r"(^|/)(id_(rsa|ed25519)|\.netrc|\.pypirc|kubeconfig)$|^etc/ssl/private/.+",
}


@dataclass(frozen=True)
class Entry:
    """One file of an image: its path without a leading slash, mode bits, owner."""

    path: str
    mode: int
    owner: int
    group: int
    regular: bool = True


def check(docker: Docker, tags: Mapping[str, str], say: Say) -> int:
    """Print a line per image and what is wrong with it; 0 if nothing is."""
    wrong: dict[str, list[str]] = {}
    rows = []
    for name, tag in tags.items():
        recipe = RECIPES[name]
        say(f"checking {tag}")
        about = json.loads(docker.run("image", "inspect", tag).stdout)[0]
        with _export(docker, tag) as stream:
            entries = list(read(stream))
        wrong[name] = [*configuration(recipe, about), *contents(entries)]
        wrong[name] += _runs(docker, recipe, tag, say)
        user = about["Config"]["User"] or "0:0"
        rows.append((name, f"{about['Size'] / 1e6:.0f} MB", f"{recipe.limit_mb} MB", user, f"{len(entries)}"))
    for row in [("image", "size", "limit", "user", "files"), *rows]:
        failed = "" if row[0] not in wrong else "wrong" if wrong[row[0]] else "ok"
        print(f"{row[0]:<12}{row[1]:>8}{row[2]:>8}  {row[3]:<12}{row[4]:>6}  {failed}".rstrip())
    for name, complaints in wrong.items():
        for complaint in complaints:
            print(f"{name}: {complaint}")
    return 1 if any(wrong.values()) else 0


def configuration(recipe: Recipe, about: Mapping[str, object]) -> list[str]:
    """What is wrong with an image's size, user and labels, by `docker image inspect`."""
    found = []
    size = cast(int, about["Size"]) / 1e6
    config = cast(Mapping[str, object], about["Config"])
    user = config["User"] or "0:0"
    labels = cast(Mapping[str, str], config.get("Labels") or {})
    if size > recipe.limit_mb:
        found.append(f"{size:.0f} MB are more than {recipe.limit_mb} MB: see `docker history`")
    if user != recipe.user:
        found.append(f"runs as {user}, not as {recipe.user}")
    for label in ("title", "version", "base.name"):
        if not labels.get(f"org.opencontainers.image.{label}"):
            found.append(f"has no label org.opencontainers.image.{label}")
    return found


def contents(entries: Iterable[Entry]) -> list[str]:
    """What is wrong with an image's files: one complaint per kind, with an example and how many there are."""
    files = [entry for entry in entries if entry.regular]
    cases = {f"has {what}": [f for f in files if re.search(pattern, f.path)] for what, pattern in _UNWANTED.items()}
    cases["has setuid or setgid programs"] = [f for f in files if f.mode & 0o6000]
    ours = [f for f in files if f.path.startswith("opt/")]
    cases["has files below /opt that root does not own"] = [f for f in ours if (f.owner, f.group) != (0, 0)]
    cases["has files below /opt that others can write"] = [f for f in ours if f.mode & 0o022]
    cases["has modules without bytecode, which each start would compile"] = _without_bytecode(ours)
    return [f"{what}: /{found[0].path} ({len(found)} in all)" for what, found in cases.items() if found]


def read(stream: IO[bytes]) -> Iterator[Entry]:
    """The files of `docker export`."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            path = posixpath.normpath(member.name).lstrip("/")
            if not member.isdir():
                regular = member.isreg() or member.islnk()
                yield Entry(path, member.mode, member.uid, member.gid, regular=regular)


def _without_bytecode(files: Iterable[Entry]) -> list[Entry]:
    files = list(files)
    compiled = {
        posixpath.join(posixpath.dirname(posixpath.dirname(f.path)), posixpath.basename(f.path).split(".")[0] + ".py")
        for f in files
        if f.path.endswith(".pyc") and "/__pycache__/" in f.path
    }
    return [f for f in files if f.path.endswith(".py") and f.path not in compiled]


@contextmanager
def _export(docker: Docker, tag: str) -> Iterator[IO[bytes]]:
    container = docker.run("create", tag).stdout.strip()
    try:
        command = [docker.program, "export", container]
        with subprocess.Popen(command, env=docker.environment, stdout=subprocess.PIPE) as exporting:
            assert exporting.stdout is not None
            yield exporting.stdout
    finally:
        docker.run("rm", container)


def _runs(docker: Docker, recipe: Recipe, tag: str, say: Say) -> list[str]:
    """Run the image's probe, or its own help, without rights, network and a writable root."""
    probe = _PROBES / f"{recipe.name}.py"
    users = [recipe.user] if recipe.user != "0:0" else ["0:0", _ANY_USER]
    found = []
    for user in users:
        options = ["-i", *_LOCKED, f"--user={user}"]
        if probe.exists():
            # As the pods have it: an emptyDir that the pod's group may write.
            options += [f"--tmpfs=/run/spillway:mode=0770,uid={user.split(':')[0]},gid={user.split(':')[1]}"]
            command = [*options, "--entrypoint=python3", tag, "-"]
        else:
            command = [*options, tag, "--version"]
        source = probe.read_bytes() if probe.exists() else b""
        done = docker.run("run", *command, input=source, check=False, timeout=_RUN_SECONDS)
        if done.returncode != 0:
            tail = (done.stdout + done.stderr).strip()[-1500:]
            found.append(
                f"does not run as {user} with a read-only root and no rights (status {done.returncode}):\n{tail}"
            )
        else:
            lines = (done.stdout or done.stderr).strip().splitlines() or [""]
            say(f"  as {user}: {lines[-1] if probe.exists() else lines[0]}")
    return found
