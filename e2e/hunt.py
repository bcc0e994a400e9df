"""Blows to a cluster under load, drawn from a seed, and their timeline: what the leak hunt strikes with."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster.settings import REPOSITORY, SYSTEM_NAMESPACE
from e2e.load.summary import Record
from e2e.stage import Object, Stage

LEFT_ALONE_SECONDS = 2.5  # a provider that has too much to do asks for two seconds, and gateways keep to it
FAULTS = ("abort_midstream", "no_usage", "500", "429", "overloaded", "outage", "late", "double_usage", "running_usage")


@dataclass(frozen=True, order=True, slots=True)
class Blow:
    """At `at` seconds of the hunt; what is held is let go after `seconds`."""

    at: float
    what: str
    seconds: float = 0.0


def drawn(seed: int, begin: float, until: float, gateways_die: bool) -> list[Blow]:
    """Every kind of blow at least once, one every few seconds, in an order and for times that the seed decides."""
    draw = random.Random(seed)
    kinds: list[tuple[str, float, float]] = [
        ("kill the leader", 0, 0),
        ("kill all operators", 0, 0),
        ("pause the leader", 4, 22),
        ("pause a gateway", 1, 4),
        ("pause the API server", 4, 12),
        ("stop Prometheus", 5, 15),
        *(
            (f"{name}: {fault}", 4, 10)
            for name, fault in zip(("zai", "deepinfra"), draw.sample(FAULTS, 2), strict=True)
        ),
        ("zai: no_usage", 4, 10),
        ("zai: wrong_usage", 4, 10),
        ("deepinfra: abort_midstream", 4, 10),
    ]
    if gateways_die:
        kinds.append(("kill a gateway", 0, 0))
    draw.shuffle(kinds)
    step = (until - begin) / len(kinds)
    return [
        Blow(round(begin + (i + draw.uniform(0, 0.8)) * step, 1), what, round(draw.uniform(low, high), 1))
        for i, (what, low, high) in enumerate(kinds)
    ]


@dataclass(slots=True)
class Timeline:
    """What was done when, in seconds of the run; printed as it happens and kept in a file, so that a failure can be
    read."""

    path: Path
    started: float = field(default_factory=time.monotonic)
    lines: list[tuple[float, str]] = field(default_factory=list)
    killed: list[tuple[str, float]] = field(default_factory=list)  # gateway base URL, and when
    faulty: list[tuple[float, float]] = field(default_factory=list)  # from when to when a provider had a fault

    @classmethod
    def kept(cls, name: str) -> Timeline:
        """In build/timelines, in place of the one of the last run of that name."""
        path = REPOSITORY / "build" / "timelines" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        return cls(path)

    def now(self) -> float:
        return time.monotonic() - self.started

    def note(self, text: str) -> None:
        """What happens now."""
        self.lines.append((self.now(), text))
        self.tell(f"  {self.now():6.1f} s  {text}")

    def tell(self, line: str) -> None:
        """What came of it."""
        print(line, flush=True)
        self._write(line)

    def keep(self, broken: Sequence[Record], cluster: Path) -> None:
        """The requests that should not have failed, if there are any, and where the logs of all processes lie."""
        if broken:
            print(f"  {len(broken)} requests should not have failed ({self.path}); logs in {cluster / 'logs'}")
            self._write(f"logs in {cluster / 'logs'}")
        for record in broken:
            self._write(str(record))

    def _write(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(line + "\n")


class Striker:
    """Strikes one blow after the other on a local cluster."""

    def __init__(self, play: Stage, timeline: Timeline, seed: int) -> None:
        self.play, self.timeline = play, timeline
        self._draw = random.Random(f"strike-{seed}")

    def strike(self, blow: Blow) -> None:
        """Returns when what was held is let go."""
        hit: dict[str, Callable[[float], None]] = {
            "kill the leader": self._kill_leader,
            "kill all operators": self._kill_operators,
            "pause the leader": self._pause_leader,
            "kill a gateway": self._kill_gateway,
            "pause a gateway": self._pause_gateway,
            "pause the API server": self._pause_api_server,
            "stop Prometheus": self._stop_prometheus,
        }
        if blow.what in hit:
            hit[blow.what](blow.seconds)
        else:
            provider, _, fault = blow.what.partition(": ")
            with self._held(f"{provider} plays {fault} to a third", blow.seconds):
                self.play.cluster.provider_faults(provider, mode=fault, probability=0.33, seed=int(blow.at * 10))
            self.play.cluster.provider_faults(provider, mode="ok")
            end = self.timeline.now()
            begin, left_alone = end - blow.seconds - 1, LEFT_ALONE_SECONDS if fault in ("429", "overloaded") else 0.0
            self.timeline.faulty.append((begin, end + left_alone))

    def _kill_leader(self, _: float) -> None:
        leaders = self.play.objects("pods", SYSTEM_NAMESPACE, "spillway.dev/leader=true")
        for pod in leaders:
            self._signal(pod, signal.SIGKILL)

    def _kill_operators(self, _: float) -> None:
        for pod in self.play.objects("pods", SYSTEM_NAMESPACE, "app.kubernetes.io/name=spillway-operator"):
            self._signal(pod, signal.SIGKILL)

    def _pause_leader(self, seconds: float) -> None:
        leaders = self.play.objects("pods", SYSTEM_NAMESPACE, "spillway.dev/leader=true")
        with self._held(f"{', '.join(p['metadata']['name'] for p in leaders)} hangs", seconds):
            for pod in leaders:
                self._signal(pod, signal.SIGSTOP, told=False)
        for pod in leaders:
            self._signal(pod, signal.SIGCONT, told=False)

    def _kill_gateway(self, _: float) -> None:
        pod = self._draw.choice(self.play.gateways())
        [url] = self.play.cluster.client_urls([pod])
        self.timeline.killed.append((url, self.timeline.now()))
        self._signal(pod, signal.SIGKILL)

    def _pause_gateway(self, seconds: float) -> None:
        pod = self._draw.choice(self.play.gateways())
        with self._held(f"{pod['metadata']['name']} hangs", seconds):
            self._signal(pod, signal.SIGSTOP, told=False)
        self._signal(pod, signal.SIGCONT, told=False)

    def _pause_api_server(self, seconds: float) -> None:
        with self._held("the API server hangs", seconds):
            self.play.local.pause_api_server()
        self.play.local.resume_api_server()

    def _stop_prometheus(self, seconds: float) -> None:
        with self._held("Prometheus is gone", seconds):
            self.play.local.stop_prometheus()
        self.play.local.start_prometheus()

    def _signal(self, pod: Object, number: signal.Signals, *, told: bool = True) -> None:
        name = pod["metadata"]["name"]
        self.play.local.kill_pod(SYSTEM_NAMESPACE, name, number)
        if told:
            self.timeline.note(f"{name} is killed")

    @contextmanager
    def _held(self, what: str, seconds: float) -> Iterator[None]:
        """Begin it in the block; returns when it has lasted."""
        self.timeline.note(f"{what} for {seconds:.1f} s")
        yield
        time.sleep(seconds)
