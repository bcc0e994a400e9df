"""`hf download`, as the engines' images have it: a checkpoint comes from far away into the hub's cache, once."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

STEP_SECONDS = 0.1


def hub_directory(environment: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps checkpoints."""
    return Path(environment.get("HF_HOME") or "~/.cache/huggingface").expanduser() / "hub"


async def fetch(model: str, hub: Path, seconds: float) -> None:
    """Bring a checkpoint into the cache. What an earlier fetch has done is not done again, and of those that want the
    same one fetches while the others wait: huggingface_hub resumes, and locks each file."""
    if not seconds:
        return
    kept = hub / f"models--{model.replace('/', '--')}"  # huggingface_hub's layout
    complete, partial = kept / "refs" / "main", kept / "blobs" / "weights.incomplete"
    if complete.exists():
        print(f"found {model} in {hub}", flush=True)
        return
    print(f"fetching {model} to {hub}", flush=True)
    complete.parent.mkdir(parents=True, exist_ok=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with (kept / "weights.lock").open("w") as lock:
        while not complete.exists():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(STEP_SECONDS)
                continue
            await _bring(partial, seconds)
            complete.write_text("complete")


async def _bring(partial: Path, seconds: float) -> None:
    """Go on from where the file says, in seconds of fetching, and keep it."""
    done = float(partial.read_text() or 0) if partial.exists() else 0.0
    while done < seconds:
        began = time.monotonic()
        await asyncio.sleep(min(STEP_SECONDS, seconds - done))
        done = min(seconds, done + time.monotonic() - began)
        partial.write_text(str(done))


def download(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """The command line ``hf download REPOSITORY [--revision R]``."""
    parser = argparse.ArgumentParser(prog="hf download", allow_abbrev=False)
    parser.add_argument("repository")
    parser.add_argument("--revision")
    chosen = parser.parse_args(words)
    asyncio.run(fetch(chosen.repository, hub_directory(environment), float(environment.get("SIM_FETCH_SECONDS") or 0)))
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(download(sys.argv[1:], os.environ))
