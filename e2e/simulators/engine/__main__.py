"""`python -m e2e.simulators.engine COMMAND ARGS…`: a container's command line in, an engine out."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from e2e.simulators.engine import sglang_flags, vllm_flags
from e2e.simulators.engine.hub import download
from e2e.simulators.engine.server import serve
from e2e.simulators.engine.settings import RefusedSettings, Settings, Surroundings


def read_command(command: Sequence[str], around: Surroundings) -> Settings | None:
    """The settings that `command` asks for; None when it names no engine."""
    words = list(command)
    if words[:2] == ["vllm", "serve"]:
        return vllm_flags.read(words[2:], around)
    if words[:2] == ["sglang", "serve"]:
        return sglang_flags.read(words[2:], around)
    if len(words) >= 3 and os.path.basename(words[0]).startswith("python") and words[1] == "-m":
        if words[2] == "sglang.launch_server":
            return sglang_flags.read(words[3:], around)
        if words[2] == "vllm.entrypoints.openai.api_server":
            return vllm_flags.read(words[3:], around)
    return None


def run_shell(words: Sequence[str]) -> NoReturn:
    """A command of the shell, which finds the engines' programs where the images have them on their PATH."""
    programs = Path(__file__).resolve().parents[3] / "images" / "engines" / "bin"
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.execvpe(words[0], list(words), {**os.environ, "PATH": path})


def main() -> int:
    if sys.argv[1:3] == ["sh", "-c"]:
        run_shell(sys.argv[1:])
    if sys.argv[1:3] == ["hf", "download"]:
        return download(sys.argv[3:], os.environ)
    if sys.argv[1:2] == ["sleep"]:
        os.execvp("sleep", sys.argv[1:])
    around = Surroundings.from_environment(os.environ)
    try:
        settings = read_command(sys.argv[1:], around)
    except RefusedSettings as error:
        print(error, file=sys.stderr)
        return 1
    if settings is None:
        print(f"exec: {' '.join(sys.argv[1:2])!r}: executable file not found in $PATH", file=sys.stderr)
        return 127
    return asyncio.run(serve(settings, around.running(settings)))


if __name__ == "__main__":
    sys.exit(main())
