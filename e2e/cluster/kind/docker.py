"""A Docker daemon: the one that answers, else one of our own in the cache directory, for root on Debian."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from e2e.cluster import debian
from e2e.cluster.kind.runtime import missing
from e2e.cluster.processes import Say, process_start_ticks
from e2e.cluster.settings import cache_directory

_SOCKET = Path("/run/spillway-docker.sock")
_ADDRESS = f"unix://{_SOCKET}"
_DEBIANS = "/usr/bin/docker"
_PACKAGES = ("docker.io", "iptables")
_START_SECONDS, _STOP_SECONDS = 60, 30
_WRAPPER = Path(__file__).with_name("runtime.py")


class DockerError(RuntimeError):
    """No daemon, or a docker command failed; the message says what to do."""


@dataclass(frozen=True)
class Docker:
    """The docker command and the daemon that it talks to."""

    program: str
    address: str | None  # DOCKER_HOST; None is docker's own default

    @property
    def environment(self) -> dict[str, str]:
        """For docker itself and for programs that call it, such as kind."""
        path = f"{Path(self.program).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        found = {**os.environ, "PATH": path, "DOCKER_BUILDKIT": "1"}
        return found | ({"DOCKER_HOST": self.address} if self.address else {})

    def run(
        self, *arguments: str, input: bytes | None = None, check: bool = True, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """One docker command; with check a failure raises DockerError with docker's words."""
        ended = subprocess.run(
            [self.program, *arguments],
            env=self.environment,
            input=input if input is not None else b"",
            capture_output=True,
            check=False,
            timeout=timeout,
        )
        out, err = ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace")
        if check and ended.returncode != 0:
            raise DockerError(f"docker {' '.join(arguments[:4])} … failed:\n{err.strip()[-2000:]}")
        return subprocess.CompletedProcess(ended.args, ended.returncode, out, err)

    def with_buildkit(self) -> Docker:
        """The same daemon by a command that can drive BuildKit; DockerError if there is none."""
        for program in dict.fromkeys((self.program, _DEBIANS)):
            if not os.access(program, os.X_OK):
                continue
            client = replace(self, program=program)
            version = client._output("version", "--format", "{{.Client.Version}}")
            # A newer docker cannot without its plugin buildx; Debian's can.
            if version.partition(".")[0] in {"18", "19", "20"} or client._output("buildx", "version"):
                return client
        raise DockerError(
            f"{self.program} has no BuildKit: install its plugin buildx (Debian: docker.io has it built in)"
        )

    def _output(self, *arguments: str) -> str:
        """What a command prints; nothing if it fails."""
        done = self.run(*arguments, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    def has_image(self, tag: str) -> bool:
        return self.run("image", "inspect", tag, check=False).returncode == 0

    def answers(self) -> bool:
        try:
            return self.run("version", "--format", "{{.Server.Version}}", check=False, timeout=20).returncode == 0
        except (subprocess.TimeoutExpired, OSError):
            return False


def find_docker(say: Say = print) -> Docker:
    """A daemon that answers (DOCKER_HOST, docker's default, our own), else one started here.

    Raises DockerError where that cannot work: no root, no Debian packages, or a kernel that refuses containers.
    """
    running = running_docker()
    if running:
        return running
    if os.geteuid() != 0:
        raise DockerError(
            "no Docker daemon answers, and only root can start one: start Docker, or run this as root, or use the "
            "local cluster, which needs neither (make e2e CLUSTER=local)"
        )
    daemon = debian.provide("dockerd", _PACKAGES, say)
    found = _own()
    _start(daemon, found, say)
    return found


def running_docker() -> Docker | None:
    """The daemon that answers, or None."""
    program = shutil.which("docker")
    candidates = [Docker(program, None)] if program else []
    if _SOCKET.exists():
        candidates.append(_own())
    return next((found for found in candidates if found.answers()), None)


def stop_docker(say: Say = print) -> bool:
    """End the daemon that find_docker() started, and take away its bridge; False if there is none of ours."""
    record = _state() / "dockerd.json"
    if not record.exists():
        return False
    started = json.loads(record.read_text())
    pid: int = started["pid"]
    ticks: int = started["ticks"]

    def alive() -> bool:
        return process_start_ticks(pid) == ticks

    if running := alive():
        say("stopping dockerd")
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        if alive():
            raise DockerError(f"dockerd (pid {pid}) does not end; its log: {_state() / 'dockerd.log'}")
    subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)
    for left in (record, _SOCKET):
        left.unlink(missing_ok=True)
    return running


def _state() -> Path:
    return cache_directory() / "docker"


def _own() -> Docker:
    """Debian's docker, which has BuildKit built in, before a bare client that may be first on PATH."""
    return Docker(_DEBIANS if Path(_DEBIANS).exists() else shutil.which("docker") or "docker", _ADDRESS)


def _start(daemon: str, docker: Docker, say: Say) -> None:
    state = _state()
    state.mkdir(parents=True, exist_ok=True)
    command = [
        daemon,
        f"--host={_ADDRESS}",
        f"--data-root={state / 'data'}",
        "--exec-root=/run/spillway-docker",
        f"--pidfile={state / 'dockerd.pid'}",
    ]
    if missing_capabilities():
        say(f"this machine lacks {', '.join(missing_capabilities())}: containers run without")
        command += [f"--add-runtime=bounded={_install_wrapper(state)}", "--default-runtime=bounded"]
    say(f"starting dockerd ({docker.address}, data in {state})")
    log = state / "dockerd.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"},
        )
    ticks = process_start_ticks(process.pid)
    (state / "dockerd.json").write_text(json.dumps({"pid": process.pid, "ticks": ticks}))
    deadline = time.monotonic() + _START_SECONDS
    while not docker.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            tail = "\n".join(log.read_text().splitlines()[-8:])
            raise DockerError(
                f"dockerd cannot work on this machine ({log}); the local cluster needs none (make e2e CLUSTER=local):\n"
                f"{tail}"
            )
        time.sleep(0.2)


def missing_capabilities() -> list[str]:
    """Capabilities that nothing on this machine can have: those outside the bounding set of this process."""
    return sorted(missing())


def _install_wrapper(state: Path) -> Path:
    """The wrapper as a program that starts in milliseconds: this interpreter, without site packages."""
    wrapper = state / "runtime"
    wrapper.write_text(f"#!{Path(sys.executable).resolve()} -IS\n{_WRAPPER.read_text()}")
    wrapper.chmod(0o755)
    return wrapper
