"""``python -m spillway.api DIRECTORY [DOCUMENT]``: write the CustomResourceDefinitions and the reference."""

from __future__ import annotations

import sys
from pathlib import Path

from spillway.api import KINDS
from spillway.api.crd import crd_yaml
from spillway.api.reference import reference


def main(arguments: list[str]) -> None:
    """Write one file per kind into the directory and, where a document is named, the reference (docs/api.md) there."""
    if len(arguments) not in (1, 2):
        raise SystemExit("usage: python -m spillway.api DIRECTORY [DOCUMENT]")
    directory = Path(arguments[0])
    directory.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        (directory / f"{kind.definition.crd_name}.yaml").write_text(crd_yaml(kind), encoding="utf-8")
    for document in arguments[1:]:
        Path(document).write_text(reference(KINDS), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
