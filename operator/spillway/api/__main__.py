"""``python -m spillway.api DIRECTORY``: write the CustomResourceDefinitions."""

from __future__ import annotations

import sys
from pathlib import Path

from spillway.api import KINDS
from spillway.api.crd import crd_yaml


def main(arguments: list[str]) -> None:
    """Write one file per kind into the directory named by the only argument."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m spillway.api DIRECTORY")
    directory = Path(arguments[0])
    directory.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        (directory / f"{kind.definition.crd_name}.yaml").write_text(crd_yaml(kind), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
