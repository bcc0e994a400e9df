"""Whether the story held: pure functions over the recording, with the measured figures in words."""

from __future__ import annotations

from dataclasses import dataclass

from e2e.demo.recording import Answer, Recording

POLICY = "assist"
FALLBACK_POOL = "hopper-h200"
REACTION_SECONDS = 15.0  # a tick of 2 s, a rate over 10 s, and what a start has to have been worth
CALM_SECONDS = 5.0  # before the end of a chapter: by then spill has to be over
STOP_SECONDS = 6.0  # from a stop of spill to the last request that was let out
BOUND_SHARE = 0.01  # of the budget: what the operator may promise at most


@dataclass(frozen=True)
class Check:
    """One thing that had to be seen. `figure`: what was measured, in words."""

    text: str
    held: bool
    figure: str


@dataclass(frozen=True)
class Verdict:
    """Of one chapter. `headline`: its most telling figure with what it is."""

    chapter: str
    title: str
    headline: tuple[str, str]
    checks: tuple[Check, ...]

    @property
    def held(self) -> bool:
        return all(check.held for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """What did not hold."""
        return [f"{self.chapter}: {check.text}: {check.figure}" for check in self.checks if not check.held]


def judge(recording: Recording) -> list[Verdict]:
    return [ready_and_answering(recording), step(recording), money(recording), fallback(recording)]


def ready_and_answering(recording: Recording) -> Verdict:
    """S1: from apply to an answer."""
    applied, ready, answered = (recording.act(name) for name in ("applied", "ready", "answered"))
    took = _between(applied, ready)
    first = _between(applied, answered)
    tokens, chunks = recording.number("json_tokens"), recording.number("stream_chunks")
    checks = (
        Check("the deployment becomes Ready", took is not None, _seconds(took, "never")),
        Check("the openai client gets a JSON answer", bool(tokens), f"{tokens or 0:.0f} tokens"),
        Check("and a streamed one, to its end", (chunks or 0) > 1, f"{chunks or 0:.0f} chunks"),
    )
    return Verdict("S1", "Apply", (_seconds(first, "none"), "from apply to the first answers"), checks)


def step(recording: Recording) -> Verdict:
    """S2: five times the load, no failed request, replicas follow, spill ends."""
    begin, end = recording.span("S2")
    stepped = recording.act("step")
    since = end if stepped is None else stepped
    answers = recording.sent(begin, end)
    spilled = [a for a in answers if a.outcome == "spilled" and a.at >= since]
    rose = next(recording.decisions(since, end, lambda m: m.name == "DemandRose"), None)
    reaction = _between(stepped, rose.at if rose else None)
    before = max((s.ready for s in recording.seen(begin, since)), default=0)
    most = max((s.ready for s in recording.seen(since, end)), default=0)
    last = max((a.at for a in spilled), default=begin)
    checks = (
        no_failures(answers),
        Check("overflow is answered by providers in the same request", bool(spilled), f"{len(spilled)} requests"),
        Check(
            f"more replicas are asked for within {REACTION_SECONDS:.0f} s, with a reason",
            reaction is not None and reaction <= REACTION_SECONDS and "$" in (rose.text if rose else ""),
            _seconds(reaction, "never"),
        ),
        Check("more replicas answer", most > before, f"{before} before, {most} after the step"),
        Check(
            "spill falls back to nothing",
            bool(spilled) and last < end - CALM_SECONDS,
            f"last spilled request {last - since:.0f} s after the step" if spilled else "nothing was spilled",
        ),
    )
    return Verdict("S2", "A step of five times", (_seconds(reaction, "none"), "from the step to the decision"), checks)


def money(recording: Recording) -> Verdict:
    """S3: the budget runs out, the bill stays within budget and bound; suspend stops spill."""
    begin, end = recording.span("S3")
    lowered, spent, raised = (recording.act(name) for name in ("lowered", "spent", "raised"))
    answers = recording.sent(begin, end)
    until = end if raised is None else raised
    told = [a for a in answers if a.code == "budget_exhausted" and a.at >= (end if lowered is None else lowered)]
    late = [a for a in answers if spent is not None and a.outcome == "spilled" and spent + STOP_SECONDS < a.at < until]
    amount, bound = recording.number("lowered_amount_usd"), recording.number("lowered_bound_usd")
    billed = recording.number("billed_at_end_usd")
    over = billed - amount if billed is not None and amount is not None else None
    message = str(recording.facts.get("refusal_message", ""))
    words = "never measured"
    if over is not None and bound is not None:
        passed = f"${over:.4f} over" if over > 0 else f"${-over:.4f} under"
        words = f"bill ${billed:.4f}, {passed} the budget of ${amount:.2f}; bound ${bound:.4f}"
    broken = [a for a in answers if a.outcome in ("failed", "cut")]
    checks = (
        Check(
            "the budget runs out",
            spent is not None,
            _seconds(_between(lowered, spent), "it did not") + (" after it was lowered" if spent is not None else ""),
        ),
        Check("then clients get 429 budget_exhausted", bool(told), f"{len(told)} answers"),
        Check(f"which names the policy {POLICY}", POLICY in message, message or "no message was caught"),
        Check(
            "the providers' own bill is within budget and bound",
            over is not None and bound is not None and over <= bound,
            words,
        ),
        Check(
            "the bound is 1 % of the budget at most",
            bound is not None and amount is not None and 0 < bound <= amount * BOUND_SHARE + 1e-9,
            f"${bound or 0:.4f}",
        ),
        Check("nothing goes out once the budget is spent", spent is not None and not late, f"{len(late)} requests"),
        suspension(recording, answers, end),
        Check("what is refused is refused cleanly", not broken, f"{len(broken)} broken answers"),
    )
    headline = ("not measured" if over is None else f"${max(over, 0.0):.4f}", "passed the budget" + _of(bound))
    return Verdict("S3", "Money runs out", headline, checks)


def suspension(recording: Recording, answers: list[Answer], end: float) -> Check:
    raised, suspended = recording.act("raised"), recording.act("suspended")
    resumed = recording.act("resumed")
    text = "suspend stops spill within seconds"
    if raised is None or suspended is None:
        return Check(text, False, "it was not tried")
    until = end if resumed is None else resumed
    flowing = [a for a in answers if a.outcome == "spilled" and raised <= a.at < suspended]
    after = [a for a in answers if a.outcome == "spilled" and suspended <= a.at < until]
    last = max((a.at - suspended for a in after), default=0.0)
    held = bool(flowing) and last <= STOP_SECONDS and until - suspended > last + 1
    words = f"last spilled request {last:.1f} s later" if flowing else "nothing spilled before it"
    return Check(text, held, words)


def fallback(recording: Recording) -> Verdict:
    """S4: no B200 to be had: H200 replicas in FP8 after the provisioning timeout, spill until they serve."""
    _, end = recording.span("S4")
    out = recording.act("stock_out")
    since = end if out is None else out
    rose = next(recording.decisions(since, end, lambda m: m.name == "DemandRose"), None)
    chosen = next(
        recording.decisions(since, end, lambda m: m.variant.startswith(FALLBACK_POOL) and m.after > m.before), None
    )
    waited = _between(rose.at if rose else None, chosen.at if chosen else None)
    timeout = recording.number("provisioning_timeout_seconds") or 0.0
    serving = next(
        (
            s.at
            for s in recording.seen(since, end)
            for name, v in s.variants.items()
            if name.startswith(FALLBACK_POOL) and v.ready and v.output_tokens_per_second > 0
        ),
        None,
    )
    total = _between(rose.at if rose else None, serving)
    start = _between(chosen.at if chosen else None, serving)
    answers = recording.sent(since, end)
    between = [a for a in answers if a.outcome == "spilled" and (serving is None or a.at < serving)]
    told = [m for m in recording.moments if m.kind == "condition" and m.name == "OutOfCapacity" and m.at >= since]
    command = str(recording.facts.get("fallback_command", ""))
    flags = " ".join(word for word in command.split() if "fp8" in word.lower())
    checks = (
        no_failures(answers),
        Check(
            "after the provisioning timeout the H200 pool is asked",
            waited is not None and waited >= timeout - 3,
            _seconds(waited, "never") + f", timeout {timeout:.0f} s",
        ),
        Check("with FP8 flags", bool(flags), flags or command or "no engine was seen"),
        Check("and serves a cold start later", start is not None, _seconds(start, "never")),
        Check("spill covers the time between", bool(between), f"{len(between)} requests"),
        Check("the pool's status says so", bool(told), told[0].text if told else "no condition"),
    )
    return Verdict("S4", "No B200 to be had", (_seconds(total, "none"), "from the demand to H200 answers"), checks)


def no_failures(answers: list[Answer]) -> Check:
    bad = [a for a in answers if a.outcome not in ("local", "spilled")]
    codes = ", ".join(sorted({a.code or a.outcome for a in bad}))
    figure = f"{len(bad)} of {len(answers)} requests" + (f" ({codes})" if codes else "")
    return Check("no request fails, is refused or is cut", bool(answers) and not bad, figure)


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else max(end - begin, 0.0)


def _seconds(value: float | None, absent: str) -> str:
    return absent if value is None else f"{value:.1f} s"


def _of(bound: float | None) -> str:
    return "" if bound is None else f"; promised: at most ${bound:.4f}"
