"""The demo: one deployment's day in five minutes on the local cluster, recorded every second, judged, and reported.

`python -m e2e.demo` plays chapters S1 to S4, writes build/demo/recording.json and report.html, and fails when the
story did not hold. `python -m e2e.demo --replay FILE` judges and reports a recording without a cluster.
"""

from __future__ import annotations

from e2e.demo.recording import Answer, Chapter, Moment, Recording, Replicas, Sample
from e2e.demo.verdict import Check, Verdict, judge

__all__ = ["Answer", "Chapter", "Check", "Moment", "Recording", "Replicas", "Sample", "Verdict", "judge"]
