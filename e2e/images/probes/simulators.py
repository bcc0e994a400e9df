"""In the simulators' image: each way that pods start an engine answers OpenAI's client and ends on SIGTERM."""

from __future__ import annotations

import os
import subprocess
import time

from openai import APIConnectionError, OpenAI

import e2e.cluster.discovery
import e2e.load
import e2e.simulators.provider.__main__  # noqa: F401 (what other pods run)

_PORT = "8000"
_COMMON = ("--served-model-name", "glm-5", "--host", "127.0.0.1", "--port", _PORT)
_COMMANDS = (
    ("vllm", "serve", "zai-org/GLM-5-FP8", *_COMMON, "--shutdown-timeout", "5"),
    ("sglang", "serve", "--model-path", "zai-org/GLM-5-FP8", *_COMMON),
    ("python3", "-m", "sglang.launch_server", "--model-path", "zai-org/GLM-5-FP8", *_COMMON),
)


def answer(deadline: float) -> int:
    """Tokens of one answer, once the engine answers."""
    client = OpenAI(base_url=f"http://127.0.0.1:{_PORT}/v1", api_key="none", max_retries=0)
    while True:
        try:
            chat = client.chat.completions.create(
                model="glm-5", messages=[{"role": "user", "content": "hello"}], max_tokens=3
            )
        except APIConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return chat.usage.completion_tokens if chat.usage else 0


for command in _COMMANDS:
    words = " ".join(command[:3])
    with subprocess.Popen(command, env={**os.environ, "SIM_DRAIN_POLL_SECONDS": "0.1"}) as engine:
        try:
            tokens = answer(time.monotonic() + 30)
        finally:
            engine.terminate()
    if tokens != 3:
        raise SystemExit(f"{words}: an answer of 3 tokens was asked for, {tokens} came")
    if engine.returncode != 0:
        raise SystemExit(f"{words} ended with status {engine.returncode} on SIGTERM")
print(f"{len(_COMMANDS)} ways to start an engine work")
