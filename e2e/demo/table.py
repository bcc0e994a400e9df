"""The live table: what is going on, under the chapter and what to watch. Plain lines without a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from e2e.demo.recording import Moment, Sample
from e2e.demo.watcher import Watcher

PLAIN_EVERY_SECONDS = 5.0
NEWS = 6
WIDEST = 150


def dollars(usd: float) -> str:
    return f"${usd:,.2f}"


class Board:
    """Draws what the watcher knows."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def __rich__(self) -> Group:
        chapters, sample = self._watcher.recording.chapters, self._watcher.last
        if not chapters:
            return Group(Text("The curtain rises…"))
        chapter = chapters[-1]
        heading = Text.assemble(
            (f" {chapter.name} ", "bold reverse"), (f"  {chapter.title}  ", "bold"), (f"watch: {chapter.watch}", "cyan")
        )
        parts: list[RenderableType] = [heading, Text("")]
        if sample is not None:
            figures = self.figures(sample)
            half = len(figures) // 2
            parts += [_row(figures[:half]), _row(figures[half:]), self._replicas(sample)]
        parts.append(self._news())
        clock = f"{self._watcher.now():.0f} s"
        return Group(Panel(Group(*parts), title="Spillway: the demo", subtitle=clock, width=WIDEST, padding=(1, 2)))

    def figures(self, sample: Sample) -> list[tuple[str, str]]:
        """What the line and the table show, with their headings."""
        recent = self._watcher.recent()
        count = {kind: sum(a.outcome == kind for a in recent) for kind in ("local", "spilled", "refused")}
        broken = sum(a.outcome in ("failed", "cut") for a in self._watcher.recording.answers)
        answered = count["local"] + count["spilled"]
        return [
            ("demand", f"{sample.work:.1f} replicas"),
            ("in flight", str(sample.in_flight)),
            ("requests/s", f"{len(recent) / 5:.1f}"),
            ("spill share", f"{count['spilled'] / answered:.0%}" if answered else "–"),
            ("refused/s", f"{count['refused'] / 5:.1f}"),
            ("broken", str(broken)),
            ("GPU $/h", dollars(sample.gpu_usd_per_hour)),
            ("API $/h", dollars(sample.external_usd_per_hour)),
            ("spent", dollars(sample.spent_usd)),
            ("budget left", dollars(sample.budget_usd - sample.spent_usd)),
        ]

    def _replicas(self, sample: Sample) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("replicas of", min_width=28)
        for heading in ("ready", "wanted", "starting", "pending", "tokens/s"):
            table.add_column(heading, justify="right", min_width=9)
        for name, v in sample.variants.items():
            bar = "■" * v.ready + "◧" * v.starting + "□" * v.pending
            row = (str(v.ready), str(v.wanted), str(v.starting), str(v.pending), f"{v.output_tokens_per_second:,.0f}")
            table.add_row(Text.assemble(name, "  ", (bar, "green")), *row)
        return table

    def _news(self) -> Text:
        lines = Text(no_wrap=True, overflow="ellipsis")
        for moment in self._watcher.recording.moments[-NEWS:][::-1]:
            lines.append(f"{moment.at:5.0f} s  ", style="dim")
            lines.append(f"{moment.name:<16} ", style=STYLES[moment.kind])
            lines.append(f"{moment.text}\n")
        return lines

    def line(self) -> str:
        """The same in one line."""
        sample = self._watcher.last
        if sample is None:
            return f"{self._watcher.now():5.0f} s  starting"
        replicas = ", ".join(f"{n} {v.ready}/{v.wanted}" for n, v in sample.variants.items() if v.wanted or v.ready)
        figures = " · ".join(f"{heading} {figure}" for heading, figure in self.figures(sample))
        return f"{sample.at:5.0f} s  {replicas} · {figures}"


STYLES = {"act": "bold cyan", "decision": "bold yellow", "condition": "bold magenta"}


def _row(figures: list[tuple[str, str]]) -> Table:
    """Two rows of five fit into any terminal; one of ten would lose the money."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, _ in figures:
        table.add_column(heading, justify="right", min_width=12)
    table.add_row(*(figure for _, figure in figures))
    return table


@contextmanager
def shown(watcher: Watcher) -> Iterator[None]:
    """Show the board until the block ends."""
    board = Board(watcher)
    if sys.stdout.isatty():
        console = Console(width=min(WIDEST, Console().width))
        with Live(board, console=console, refresh_per_second=2, get_renderable=lambda: board):
            yield
        return
    ended = threading.Event()
    teller = threading.Thread(target=_tell, args=(watcher, board, ended), name="teller", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join(5)


def _tell(watcher: Watcher, board: Board, ended: threading.Event) -> None:
    """Each chapter and moment once, and a line of figures every five seconds."""
    told_chapters = told_moments = 0
    due = time.monotonic()
    while True:
        last = ended.wait(0.5)
        chapters, moments = watcher.recording.chapters, watcher.recording.moments
        for chapter in chapters[told_chapters:]:
            print(f"\n== {chapter.name} {chapter.title}. Watch: {chapter.watch}", flush=True)
        told_chapters = len(chapters)
        for moment in moments[told_moments:]:
            print(_told(moment), flush=True)
        told_moments = len(moments)
        if time.monotonic() >= due and not last:
            print(board.line(), flush=True)
            due = time.monotonic() + PLAIN_EVERY_SECONDS
        if last:
            return


def _told(moment: Moment) -> str:
    sign = {"act": "→", "decision": "*", "condition": "!"}[moment.kind]
    return f"{moment.at:5.0f} s  {sign} {moment.name}: {moment.text}"
