"""The director: plays chapters S1 to S4 on one time line. What is seen is the watcher's business."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_UP, Decimal

from openai import APIStatusError, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from e2e.demo import scene
from e2e.demo.scene import DAY_USD, DEPLOYMENT, FIRST_POOL, LONGEST_PROMPT_TOKENS, POLICY, SECOND_POOL
from e2e.demo.watcher import Watcher
from e2e.load.schedule import Schedule
from e2e.load.traces import Trace, load
from e2e.stage import NAMESPACE, BackgroundLoad, Stage, Unmet

TRACE, TRACE_STARTS_AT = "azure23_conv", 800.0  # a calm stretch: about 5 requests a second
HOST = {"Host": f"{DEPLOYMENT}.{NAMESPACE}.svc"}

BEFORE_STEP, STEP_FACTOR, STEP_SECONDS, AFTER_STEP = 15.0, 5.0, 45.0, 20.0
# Long documents with short summaries: 36 a second is six times what one replica takes.
DOCUMENTS_PER_SECOND, FEWER_DOCUMENTS_PER_SECOND, DOCUMENT_TOKENS, SUMMARY_TOKENS = 36.0, 13.0, 2900, 110
SPENT_USD, LEFT_USD, RAISED_USD = Decimal(5), Decimal("0.12"), "60"
FALLBACK_FACTOR, FALLBACK_AT, FALLBACK_SECONDS = 5.0, 5.0, 75.0


class Story:
    """Plays on a stage; every act is told to the watcher."""

    def __init__(self, stage: Stage, watcher: Watcher, alive: Callable[[], None]) -> None:
        """`alive` is called while waiting; it raises what should end the story."""
        self._stage = stage
        self._watcher = watcher
        self._alive = alive
        self._trace: Trace = load(TRACE)
        watcher.recording.arrivals = self._trace.origin
        watcher.recording.facts["provisioning_timeout_seconds"] = float(scene.TIMEOUT_SECONDS)

    def play(self) -> None:
        for chapter in (self.apply, self.step, self.money, self.fallback):
            chapter()
        self._wait("an answer to every request", lambda: self._watcher.recording.samples and not self._in_flight(), 60)

    # ---- chapters ----------------------------------------------------------------------------------------------------

    def apply(self) -> None:
        self._watcher.chapter("S1", "Apply", "a few lines of YAML become an endpoint that answers")
        self._stage.apply(*scene.platform(self._stage))
        self._stage.apply(scene.app(self._stage))
        self._watcher.act("applied", f"The app team applies MoEDeployment {DEPLOYMENT}")
        self._stage.wait_ready(DEPLOYMENT)
        self._watcher.act("ready", f"kubectl wait: {DEPLOYMENT} is Ready")
        self._greet()
        self._watcher.act("answered", "The openai client has a JSON answer and a streamed one")
        self._pause(3)

    def step(self) -> None:
        self._watcher.chapter(
            "S2", "A step of five times", "overflow spills at once, replicas follow, spill falls back to nothing"
        )
        schedule = self._arrivals(BEFORE_STEP + STEP_SECONDS + AFTER_STEP, STEP_FACTOR, BEFORE_STEP, STEP_SECONDS)
        with self._send(schedule) as sending:
            self._pause_until(sending, BEFORE_STEP)
            self._watcher.act("step", f"Load times {STEP_FACTOR:g}")
            self._pause_until(sending, BEFORE_STEP + STEP_SECONDS)
            self._watcher.act("step_ends", "Load back to normal")
            self._pause_until(sending, schedule.seconds)

    def money(self) -> None:
        self._watcher.chapter(
            "S3", "Money runs out", "a spent budget means honest 429s, and the providers' bill stays within the bound"
        )
        facts = self._watcher.recording.facts
        self._patch_ceiling(1)
        self._watcher.act("ceiling", "The app team may have one replica only; long documents come in, 36 a second")
        with self._send(self._documents(DOCUMENTS_PER_SECOND)):
            self._wait(f"${SPENT_USD} spent outside", lambda: self._spent() >= SPENT_USD, 120)
        with self._send(self._documents(FEWER_DOCUMENTS_PER_SECOND)):
            self._pause(5)  # what is in flight when a budget is lowered cannot be called back: let the wave pass
            lowered = (self._spent() + LEFT_USD).quantize(Decimal("0.01"), ROUND_UP)
            self._stage.patch("costpolicy", POLICY, scene.amount(str(lowered)))
            facts["lowered_amount_usd"] = float(lowered)
            self._watcher.act("lowered", f"The platform team lowers the day's budget to ${lowered}")
            self._wait("the budget spent", self._budget_spent, 100)
            self._watcher.act("spent", "The budget is spent")
            self._pause(4)
            self._wait("a refusal in words", self._refused, 20)
            self._pause(4)
            facts["billed_at_end_usd"] = float(self._stage.billed())
            facts["lowered_bound_usd"] = float(self._stage.budget()["bound"])

            self._stage.patch("costpolicy", POLICY, scene.amount(RAISED_USD))
            raised = self._watcher.act("raised", f"The platform team gives ${RAISED_USD}")
            self._wait("spill again", lambda: self._spilled_since(raised) >= 5, 30)
            self._stage.patch("costpolicy", POLICY, {"spec": {"suspend": True}})
            self._watcher.act("suspended", "The platform team pulls the switch: suspend")
            self._pause(11)
        self._pause(3)

    def fallback(self) -> None:
        self._watcher.chapter(
            "S4", "No B200 to be had", "spill covers until H200 replicas in FP8 serve what B200 cannot be bought for"
        )
        self._stage.patch("costpolicy", POLICY, scene.amount(DAY_USD, suspend=False))
        self._stage.local.stock_out(FIRST_POOL)
        self._patch_ceiling(6)
        self._watcher.act("resumed", f"Budget ${DAY_USD} again, six replicas allowed")
        self._wait("spill allowed", lambda: self._stage.status(DEPLOYMENT).get("spill", {}).get("active"), 30)
        self._wait("the documents answered", lambda: self._in_flight() < 10, 40)
        self._watcher.act("stock_out", "The cloud has no more B200 nodes")
        schedule = self._arrivals(FALLBACK_SECONDS, FALLBACK_FACTOR, FALLBACK_AT, FALLBACK_SECONDS)
        with self._send(schedule) as sending:
            self._pause_until(sending, FALLBACK_AT)
            self._watcher.act("rise", f"Load times {FALLBACK_FACTOR:g}")
            self._wait("an engine on H200", self._fallback_command, FALLBACK_SECONDS)
            self._pause_until(sending, schedule.seconds)

    # ---- pieces ------------------------------------------------------------------------------------------------------

    def _greet(self) -> None:
        """One JSON answer and one stream, as any OpenAI client asks for them."""
        facts = self._watcher.recording.facts
        client = self._client()
        model = client.models.list().data[0].id
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is a spillway? [[out=25]]"}]
        whole = client.chat.completions.create(model=model, messages=messages)
        facts["json_tokens"] = float(whole.usage.completion_tokens if whole.usage else 0)
        chunks = list(client.chat.completions.create(model=model, messages=messages, stream=True))
        complete = chunks[-1].choices and chunks[-1].choices[0].finish_reason == "stop"
        facts["stream_chunks"] = float(len(chunks) if complete else 0)

    def _refused(self) -> bool:
        """Whether a client was told that the budget is spent; the words are kept."""
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello? [[out=5]]"}]
        try:
            self._client().chat.completions.create(model=DEPLOYMENT, messages=messages)
        except APIStatusError as error:
            if error.code == "budget_exhausted":
                self._watcher.recording.facts["refusal_message"] = str(error.message)
                return True
        return False

    def _client(self) -> OpenAI:
        base = f"{self._stage.urls()[0]}/v1"
        return OpenAI(base_url=base, api_key="any", default_headers=HOST, max_retries=0, timeout=60)

    def _fallback_command(self) -> str:
        """The command line of an engine on the second pool, once there is one."""
        pods = self._stage.objects("pods", NAMESPACE, "app.kubernetes.io/component=engine")
        for pod in pods:
            if pod["metadata"]["labels"]["spillway.dev/variant"].startswith(SECOND_POOL):
                engine = pod["spec"]["containers"][0]
                command = " ".join([*engine.get("command", []), *engine.get("args", [])])
                self._watcher.recording.facts["fallback_command"] = command
                return command
        return ""

    def _arrivals(self, seconds: float, factor: float, at: float, lasting: float) -> Schedule:
        """Recorded arrivals with a step; prompts cut to what the providers' contexts hold."""
        plain = Schedule.of(self._trace, seconds=seconds, start=TRACE_STARTS_AT).step(factor, at, lasting)
        short = (replace(a, prompt_tokens=min(a.prompt_tokens, LONGEST_PROMPT_TOKENS)) for a in plain.arrivals)
        return replace(plain, arrivals=tuple(short))

    def _documents(self, per_second: float) -> Schedule:
        return Schedule.steady(per_second, 300, prompt_tokens=DOCUMENT_TOKENS, output_tokens=SUMMARY_TOKENS)

    def _send(self, schedule: Schedule) -> Sending:
        return Sending(self._stage, self._watcher, schedule)

    def _patch_ceiling(self, replicas: int) -> None:
        self._stage.patch("moedeployment", DEPLOYMENT, {"spec": {"maxReplicas": replicas}}, NAMESPACE)

    def _spent(self) -> Decimal:
        """By the ledger or by the providers, whoever says more."""
        last = self._watcher.last
        return Decimal(str(max(last.spent_usd, last.billed_usd))) if last else Decimal(0)

    def _budget_spent(self) -> bool:
        noted = (m for m in self._watcher.recording.moments if m.kind == "condition" and m.name == "WithinBudget")
        return any(m.text.startswith("False") for m in noted)

    def _spilled_since(self, since: float) -> int:
        return sum(a.outcome == "spilled" and a.at >= since for a in self._watcher.recording.answers)

    def _in_flight(self) -> int:
        return self._watcher.last.in_flight if self._watcher.last else 0

    def _wait(self, what: str, look: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not look():
            if time.monotonic() > deadline:
                raise Unmet(f"not within {seconds:.0f} s: {what}")
            self._pause(0.5)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._alive()
            time.sleep(min(left, 0.25))

    def _pause_until(self, sending: BackgroundLoad, elapsed: float) -> None:
        self._pause(max(0.0, elapsed - sending.elapsed()))


class Sending:
    """A load for a `with` block. At its end nothing more is sent; answers under way still come in afterwards."""

    def __init__(self, stage: Stage, watcher: Watcher, schedule: Schedule) -> None:
        self._stage, self._watcher, self._schedule = stage, watcher, schedule

    def __enter__(self) -> BackgroundLoad:
        share = 0.6 if "steady" not in self._schedule.origin else 0.2
        self._load = self._stage.load(DEPLOYMENT, self._schedule, streaming_share=share)
        self._watcher.follow(self._load)
        return self._load

    def __exit__(self, *_: object) -> None:
        self._load.stop()
