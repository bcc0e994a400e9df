"""Programs from Debian's packages, without the services that some of them would start."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from e2e.cluster.processes import Say

_POLICY = Path("/usr/sbin/policy-rc.d")


class PackageError(RuntimeError):
    """A program is missing and could not be installed; the message says what to do."""


def provide(program: str, packages: Sequence[str], say: Say = print) -> str:
    """The program from PATH; else its Debian packages are installed (as root, where there is apt-get)."""
    found = _which(program)
    if found:
        return found
    install(packages, say, wanted=program)
    found = _which(program)
    if not found:
        raise PackageError(f"the Debian packages {', '.join(packages)} brought no {program} on PATH")
    return found


def install(packages: Sequence[str], say: Say = print, wanted: str = "") -> None:
    """apt-get install, quietly; PackageError says which package to install by hand where that cannot work."""
    names = " ".join(packages)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise PackageError(f"no {wanted or names} on PATH: install it (Debian: apt-get install {names})")
    say(f"installing {names} (Debian packages, without starting services)")
    with _no_services_started():
        for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(
                ["apt-get", *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise PackageError(f"apt-get {' '.join(command)} failed:\n{(done.stdout + done.stderr)[-1500:]}")


def _which(program: str) -> str | None:
    """PATH, and where Debian puts daemons, which is not on every user's PATH."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


@contextlib.contextmanager
def _no_services_started() -> Iterator[None]:
    """Debian's way to install a package without starting its daemon."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
