"""Child processes that never outlive their parent, locks, free ports, waiting for a condition, how long work took."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

Say = Callable[[str], None]  # how long work tells of its progress
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class StartError(RuntimeError):
    """A part of the cluster did not come up; the message says which and where its log lies."""


def die_with_parent(signal_number: int = signal.SIGKILL) -> Callable[[], None]:
    """A preexec_fn: the kernel sends the signal when the *thread* that started the child ends."""
    parent = os.getpid()

    def set_parent_death_signal() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal_number)
        if os.getppid() != parent:  # the parent died between fork and prctl
            os.kill(os.getpid(), signal_number)

    return set_parent_death_signal


def python_environment(**extra: str) -> dict[str, str]:
    """The caller's environment with this interpreter's programs (kubectl, spillway) first on PATH."""
    programs = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}", **extra}


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def lock(path: Path, say: Say) -> Iterator[None]:
    """Only one process builds at a time; the others are told, wait, and then find everything."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another run is at work; waiting for it ({path})")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def timed(say: Say, what: str, *, part: bool = False) -> Iterator[None]:
    """Tell that work begins and how long it took; of a part of other work only the latter, indented."""
    started = time.monotonic()
    if not part:
        say(f"{what} …")
    yield
    say(f"{'  ' if part else ''}{what}: {time.monotonic() - started:.0f} s")


def wait_until(what: str, check: Callable[[], bool], seconds: float, process: Process | None = None) -> None:
    """Poll until check() holds; a process that ends meanwhile, or the time limit, is a StartError."""
    deadline = time.monotonic() + seconds
    while not check():
        if process is not None and process.exit_code is not None:
            raise StartError(f"{process.name} ended with status {process.exit_code}:\n{process.log_tail()}")
        if time.monotonic() > deadline:
            tail = f":\n{process.log_tail()}" if process is not None else ""
            raise StartError(f"{what}: not within {seconds:.0f} s{tail}")
        time.sleep(0.05)


class Process:
    """One child with its output in a log file; it dies with the thread that called start()."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name, self.argv, self.log, self.environment = name, list(argv), log, environment
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> Process:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        return self

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def exit_code(self) -> int | None:
        return self._child.poll() if self._child else None

    def stop(self, seconds: float = 5) -> None:
        """SIGTERM, and SIGKILL when the process has not ended in time."""
        if self._child is None or self._child.poll() is not None:
            return
        self._child.terminate()
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def log_tail(self, lines: int = 15) -> str:
        with contextlib.suppress(FileNotFoundError):
            return f"{self.log}\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return f"{self.log} (empty)"


def process_start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot, or None if there is none: tells reused pids apart."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def find_program(name: str) -> str | None:
    """A program beside this interpreter, else on PATH."""
    return shutil.which(name, path=python_environment()["PATH"])


def named_program(variable: str, error: type[Exception]) -> str | None:
    """The program that the environment variable names, or None if it names none; `error` if that is no program."""
    named = os.environ.get(variable)
    if named and not os.access(named, os.X_OK):
        raise error(f"{variable}={named} is not a program")
    return named or None
