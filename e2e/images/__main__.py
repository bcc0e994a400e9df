"""`python -m e2e.images build [NAME…]` and `python -m e2e.images check [NAME…]`: all images if none is named."""

from __future__ import annotations

import argparse
import sys
import time

from e2e.cluster.debian import PackageError
from e2e.cluster.kind.docker import DockerError, find_docker
from e2e.images.builder import build
from e2e.images.check import check
from e2e.images.debian import ImageError
from e2e.images.recipes import RECIPES


def main() -> int:
    line = argparse.ArgumentParser(prog="python -m e2e.images", description=__doc__)
    line.add_argument("command", choices=("build", "check"))
    line.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    options = line.parse_args()
    unknown = sorted(set(options.names) - set(RECIPES))
    if unknown:
        line.error(f"no image is called {', '.join(unknown)}: there are {', '.join(RECIPES)}")
    names = options.names or list(RECIPES)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)

    try:
        docker = find_docker(say)
        tags = build(docker, names, say)
        if options.command == "check":
            return check(docker, tags, say)
    except (DockerError, ImageError, PackageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for tag in tags.values():
        say(tag)
    return 0


if __name__ == "__main__":
    sys.exit(main())
