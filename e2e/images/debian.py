"""Docker images made of Debian packages, for machines that reach a Debian mirror but no image registry."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.debian import provide
from e2e.cluster.kind.docker import Docker
from e2e.cluster.processes import Say, lock

_LEFT_OUT = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/bug/*",
)
# How this machine reaches its mirrors (a proxy, a frozen mirror) holds while the root file system is made; the rest
# of apt's configuration, such as downloads for desktop programs, does not.
_REACH = re.compile(r"^Acquire::(https?::|Check-Valid-Until |Check-Date |Retries )")
# Without it the essential packages bring usrmerge, and that all of Perl: 60 MB.
_MERGED_USR = Path("/usr/share/mmdebstrap/hooks/merged-usr")
_REPORT_SECONDS = 10


class ImageError(RuntimeError):
    """An image could not be made, or is not what it should be; the message says what to do."""


def make_image(
    docker: Docker,
    tag: str,
    root: Path,
    packages: Sequence[str],
    say: Say,
    *,
    variant: str = "minbase",
    changes: Sequence[str] = (),
) -> None:
    """Make the docker image `tag` of a root file system at `root`, which is gone afterwards. Raises ImageError."""
    root_filesystem(root, packages, say, variant=variant)
    import_image(docker, root, tag, changes)
    shutil.rmtree(root)  # docker has it: nothing needs it twice
    _record(root).unlink(missing_ok=True)


def root_filesystem(destination: Path, packages: Sequence[str], say: Say, *, variant: str = "minbase") -> None:
    """A Debian root file system of this machine's own release with `packages` and what they depend on.

    Nothing is done when `destination` was made with the same packages before. It appears only when complete. Made by
    mmdebstrap (installed if missing) as root, from the machine's own apt sources. `variant` is mmdebstrap's: minbase
    has apt, essential has not. Raises ImageError.
    """
    wanted = f"{variant} {' '.join(sorted(packages))}\n"
    record = _record(destination)
    if _made(destination, record, wanted):
        return
    with lock(destination.with_name(f"{destination.name}.lock"), say):
        if _made(destination, record, wanted):
            return
        if os.geteuid() != 0:
            raise ImageError("a root file system of Debian packages is made by root only: run as root")
        provide("mmdebstrap", ["mmdebstrap"], say)
        part = destination.with_name(f"{destination.name}.part")
        for old in (part, destination):
            if old.exists():
                shutil.rmtree(old)
        record.unlink(missing_ok=True)
        started = time.monotonic()
        say(f"making a Debian root file system of {', '.join(packages) or 'the essential packages'}")
        _bootstrap(part, packages, variant, say)
        _clean(part)
        record.write_text(wanted)
        part.rename(destination)
        say(f"  {destination.name}: made in {time.monotonic() - started:.0f} s")


def import_image(docker: Docker, root: Path, tag: str, changes: Sequence[str] = ()) -> None:
    """Make a root file system into the docker image `tag` of one layer.

    `changes` are Dockerfile instructions such as `ENV LANG=C.UTF-8`; docker 20.10 knows no STOPSIGNAL here. Raises
    ImageError.
    """
    pack = ["tar", "--numeric-owner", "--sort=name", "--exclude=./dev/*", "-C", str(root), "-c", "."]
    load = [docker.program, "import", *(word for change in changes for word in ("--change", change)), "-", tag]
    with subprocess.Popen(pack, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as packing:
        done = subprocess.run(
            load, stdin=packing.stdout, env=docker.environment, capture_output=True, text=True, check=False
        )
        assert packing.stdout is not None and packing.stderr is not None
        packing.stdout.close()
        complaint = packing.stderr.read().decode(errors="replace")
    if done.returncode != 0:
        raise ImageError(f"docker import of {tag} failed: {done.stderr.strip()[-1000:]}")
    if packing.returncode != 0:
        subprocess.run([docker.program, "rmi", tag], env=docker.environment, capture_output=True, check=False)
        raise ImageError(f"packing {root} failed: {complaint.strip()[-1000:]}")


def release() -> str:
    """The code name of this machine's Debian, such as bookworm. Raises ImageError elsewhere."""
    about = Path("/etc/os-release")
    lines = about.read_text().splitlines() if about.exists() else []
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    if fields.get("ID") != "debian" or "VERSION_CODENAME" not in fields:
        raise ImageError("images are made of Debian packages on Debian only; elsewhere an image registry is needed")
    return fields["VERSION_CODENAME"].strip('"')


def _record(root: Path) -> Path:
    return root.with_name(f"{root.name}.packages")


def _made(destination: Path, record: Path, wanted: str) -> bool:
    return destination.is_dir() and record.is_file() and record.read_text() == wanted


def _bootstrap(root: Path, packages: Sequence[str], variant: str, say: Say) -> None:
    command = ["mmdebstrap", "--quiet", "--mode=root", "--format=directory", f"--variant={variant}"]
    if _MERGED_USR.exists():
        command.append(f"--hook-dir={_MERGED_USR}")
    if packages:
        command.append(f"--include={','.join(packages)}")
    for option in ('APT::Install-Recommends "false"', *_reach()):
        command.append(f"--aptopt={option}")
    for option in ("force-unsafe-io", *_LEFT_OUT):
        command.append(f"--dpkgopt={option}")
    name = release()
    started = time.monotonic()
    with subprocess.Popen(
        [*command, name, str(root), *map(str, _sources(name))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        while True:
            try:
                printed, _ = running.communicate(timeout=_REPORT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                say(f"  {root.stem}: {time.monotonic() - started:.0f} s")
    if running.returncode != 0:
        raise ImageError(f"mmdebstrap of {root.stem} failed:\n{printed.strip()[-2000:]}")


def _sources(name: str) -> list[Path]:
    """apt's own source files that hold the release `name`: Debian's, not those of other vendors without it."""
    folder = Path("/etc/apt")
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    found = [
        file
        for file in files
        if file.suffix in (".list", ".sources")
        and file.is_file()
        and re.search(rf"^(deb |Suites:).*(?<!\S){name}(?!\S)", file.read_text(), re.M)
    ]
    if not found:
        raise ImageError(f"apt has no source of {name}: look at /etc/apt/sources.list and sources.list.d")
    return found


def _reach() -> list[str]:
    printed = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    return [line.rstrip(";") for line in printed.splitlines() if _REACH.match(line)]


def _clean(root: Path) -> None:
    """Drop downloads, this machine's mirrors and proxies, and what names the machine that it was made on."""
    for pattern in (
        "var/cache/apt/*",
        "var/lib/apt/lists/*",
        "var/cache/debconf/*-old",
        "var/lib/dpkg/*-old",
        "var/log/*",
        "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/apt/sources.list",
        "etc/apt/sources.list.d/*",
        "etc/hostname",
        "etc/resolv.conf",
    ):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    machine = root / "etc" / "machine-id"
    if machine.exists():
        machine.write_text("")  # systemd gives each copy one of its own
