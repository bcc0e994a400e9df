"""One container as a process: start, probes, restarts with back-off, preStop, SIGTERM, grace, SIGKILL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.kubeapi import Obj, now
from e2e.cluster.probes import Target, Threshold, wait_for_success
from e2e.cluster.processes import die_with_parent

_FIRST_BACK_OFF_SECONDS = 10.0  # the kubelet's: 10 s, 20 s, … 5 min, forgotten after 10 min of running
_LONGEST_BACK_OFF_SECONDS = 300.0
_FORGET_SECONDS = 600.0
_SHORTEST_STOP_SECONDS = 2.0  # what the kubelet leaves after a preStop that used up the grace period


@dataclass(frozen=True)
class Launch:
    """A resolved command: what to run, with which environment, where."""

    argv: list[str]
    environment: dict[str, str]
    directory: str


class Container:
    """Runs one container of a pod until it is stopped; `status()` is its Kubernetes containerStatus."""

    def __init__(
        self,
        spec: Obj,
        address: str,
        log: Path,
        restart_policy: str,
        grace_seconds: float,
        launch: Callable[[], Launch],
        changed: Callable[[], None],
        event: Callable[[str, str, str], None],
    ) -> None:
        self.spec, self.name = spec, str(spec["name"])
        self._address, self._log, self._restart_policy, self._grace = address, log, restart_policy, grace_seconds
        self._launch, self._changed, self._event = launch, changed, event
        self.state: Obj = {"waiting": {"reason": "ContainerCreating"}}
        self._last_state: Obj = {}
        self.ready = False
        self._started = False
        self.restarts = 0
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._target: Target | None = None

    @property
    def exit_code(self) -> int | None:
        """The exit status once the container has ended for good."""
        terminated = self.state.get("terminated")
        return int(terminated["exitCode"]) if terminated else None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    def status(self) -> Obj:
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": f"local/{self.spec['image']}",
            "containerID": f"process://{self._process.pid if self._process else ''}",
            "ready": self.ready,
            "started": self._started,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self._last_state,
        }

    def waiting(self, reason: str, message: str = "") -> None:
        self.state = {"waiting": {"reason": reason, "message": message} if message else {"reason": reason}}
        self._changed()

    async def run(self) -> None:
        """Run to the end that the restart policy allows, or until stop()."""
        back_off = 0.0
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once()
            if self._stopping.is_set() or not self._restarts_after(code):
                return
            if time.monotonic() - began > _FORGET_SECONDS:
                back_off = 0.0
            self._last_state = self.state
            if back_off:
                self.waiting("CrashLoopBackOff", f"back-off {back_off:.0f}s restarting failed container={self.name}")
                self._event("BackOff", f"Back-off restarting failed container {self.name}", "Warning")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), back_off)
            back_off = min(max(_FIRST_BACK_OFF_SECONDS, 2 * back_off), _LONGEST_BACK_OFF_SECONDS)
            self.restarts += 1
        if "waiting" in self.state:
            self.state = self._last_state

    async def stop(self, seconds: float) -> None:
        """preStop, SIGTERM, and SIGKILL when the grace period is over."""
        self._stopping.set()
        await self._terminate(seconds)

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal to the process at once: a crash, as seen from the pod."""
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal_number)

    def abandon(self) -> None:
        """The pod or its node is gone: kill and never restart."""
        self._stopping.set()
        self.kill()

    async def _run_once(self) -> int:
        launch = self._launch()
        began = now()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._log.open("ab") as output:
                self._process = await asyncio.create_subprocess_exec(
                    *launch.argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=asyncio.subprocess.STDOUT,
                    env=launch.environment,
                    cwd=launch.directory,
                    start_new_session=True,
                    preexec_fn=die_with_parent(),
                )
        except OSError as error:
            self._ended(began, 128, "StartError", str(error))
            return 128
        self._target = Target(self._address, self.spec, launch.environment, launch.directory)
        self.state = {"running": {"startedAt": began}}
        self._started = "startupProbe" not in self.spec
        self.ready = self._started and "readinessProbe" not in self.spec
        self._changed()
        self._event("Started", f"Started container {self.name}", "Normal")
        watching = asyncio.create_task(self._watch(self._target))
        try:
            code = await self._process.wait()
        finally:
            self.kill()  # whatever the program left behind in its process group
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        code = code if code >= 0 else 128 - code
        self._ended(began, code, "Completed" if code == 0 else "Error", "")
        return code

    def _ended(self, began: str, code: int, reason: str, message: str) -> None:
        terminated = {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": now()}
        self.state = {"terminated": terminated | ({"message": message} if message else {})}
        self.ready = self._started = False
        self._changed()

    def _restarts_after(self, code: int) -> bool:
        return self._restart_policy == "Always" or (self._restart_policy == "OnFailure" and code != 0)

    async def _watch(self, target: Target) -> None:
        """postStart, the startup probe, then readiness and liveness side by side."""
        error = await self._hook("postStart", target, self._grace)
        if error:
            await self._unhealthy(f"postStart hook failed: {error}")
            return
        if "startupProbe" in self.spec:
            error = await wait_for_success(target, self.spec["startupProbe"])
            if error:
                await self._unhealthy(f"Startup probe failed: {error}")
                return
            self._started = True
            self.ready = "readinessProbe" not in self.spec
            self._changed()
        async with asyncio.TaskGroup() as group:
            if "readinessProbe" in self.spec:
                group.create_task(self._readiness(target, self.spec["readinessProbe"]))
            if "livenessProbe" in self.spec:
                group.create_task(self._liveness(target, self.spec["livenessProbe"]))

    async def _readiness(self, target: Target, probe: Obj) -> None:
        verdict = Threshold(probe, initial=False)
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        while True:
            error = await target.run(probe, probe.get("timeoutSeconds", 1))
            if verdict.add(error is None):
                self.ready = verdict.healthy
                if error:
                    self._event("Unhealthy", f"Readiness probe failed: {error}", "Warning")
                self._changed()
            await asyncio.sleep(probe.get("periodSeconds", 10))

    async def _liveness(self, target: Target, probe: Obj) -> None:
        verdict = Threshold(probe, initial=True)
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        while not self._stopping.is_set():
            error = await target.run(probe, probe.get("timeoutSeconds", 1))
            if verdict.add(error is None) and not self._stopping.is_set():
                await self._unhealthy(f"Liveness probe failed: {error}")
                return
            await asyncio.sleep(probe.get("periodSeconds", 10))

    async def _unhealthy(self, message: str) -> None:
        self._event("Unhealthy", message, "Warning")
        self._event("Killing", f"Container {self.name} failed its probe or hook, will be restarted", "Normal")
        self.ready = False
        self._changed()
        await self._terminate(self._grace)

    async def _terminate(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        process, target = self._process, self._target
        if process is None or target is None or process.returncode is not None:
            return
        if seconds > 0:
            error = await self._hook("preStop", target, seconds)
            if error:
                self._event("FailedPreStopHook", f"PreStopHook failed: {error}", "Warning")
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), max(deadline - time.monotonic(), _SHORTEST_STOP_SECONDS))
        if process.returncode is None:
            self.kill()

    async def _hook(self, name: str, target: Target, seconds: float) -> str | None:
        action = self.spec.get("lifecycle", {}).get(name)
        return await target.run(action, seconds) if action else None
