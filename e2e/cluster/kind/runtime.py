"""An OCI runtime that asks for no capability which the machine cannot give, and is runc otherwise.

`docker run --privileged`, as kind starts its nodes, asks for every capability; runc refuses the whole container when
one of them is outside the bounding set (CAP_SYS_RESOURCE in many sandboxes). Standard library only: dockerd runs this
file itself, for each container.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RUNC = "/usr/sbin/runc"
# In the order of the bits of CapBnd, from capabilities(7).
NAMES = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
]  # fmt: skip


def missing(status: str = "/proc/self/status") -> set[str]:
    """Names such as CAP_SYS_RESOURCE of what the bounding set lacks."""
    lines = Path(status).read_text().splitlines()
    bounding = next(int(line.split()[1], 16) for line in lines if line.startswith("CapBnd:"))
    return {f"CAP_{name}" for bit, name in enumerate(NAMES) if not bounding >> bit & 1}


def without(process: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The `process` of an OCI specification without the capabilities in any of its five sets."""
    sets = process.get("capabilities") or {}
    kept = {key: [name for name in held or [] if name not in names] for key, held in sets.items()}
    return {**process, "capabilities": kept} if sets else process


def option(arguments: Sequence[str], *names: str) -> str | None:
    """The value of `--name value` or `--name=value`."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in names:
            return value if equals else arguments[place + 1]
    return None


def bound(arguments: Sequence[str]) -> None:
    """Rewrite the file that this call of the runtime will read, if it names one."""
    if "exec" in arguments:
        named = option(arguments, "--process", "-p")
        if named:
            _rewrite(Path(named), lambda process: without(process, missing()))
    elif "create" in arguments or "run" in arguments or "restore" in arguments:
        file = Path(option(arguments, "--bundle", "-b") or ".") / "config.json"
        _rewrite(file, lambda spec: {**spec, "process": without(spec["process"], missing())})


def _rewrite(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


if __name__ == "__main__":
    bound(sys.argv[1:])
    os.execv(RUNC, [RUNC, *sys.argv[1:]])
