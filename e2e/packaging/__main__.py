"""python -m e2e.packaging generate | verify | release DIRECTORY --operator IMAGE --gateway IMAGE"""

from __future__ import annotations

import argparse
import difflib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.golang import BuildError
from e2e.packaging import chart
from e2e.packaging.compare import difference
from e2e.packaging.helm import Helm, HelmError, find_helm
from e2e.packaging.render import (
    BASE,
    COMPONENTS,
    INSTALL,
    Object,
    RenderError,
    install_yaml,
    render,
    with_images,
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.packaging", description="What users install.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("generate", help="write manifests/install.yaml and the Helm chart from the kustomize source")
    commands.add_parser("verify", help="they are up to date, and the chart renders what kustomize does")
    release = commands.add_parser("release", help="the same with other images, into a directory")
    release.add_argument("directory", type=Path)
    release.add_argument("--operator", required=True, metavar="IMAGE", help="for example REGISTRY/operator@sha256:…")
    release.add_argument("--gateway", required=True, metavar="IMAGE")
    options = parser.parse_args(arguments)
    try:
        if options.command == "verify":
            return verify()
        base = render(BASE)
        if options.command == "release":
            base = with_images(base, {"operator": options.operator, "gateway": options.gateway})
            write(base, options.directory / "install.yaml", options.directory / "spillway")
        else:
            write(base, INSTALL, chart.CHART)
    except (BuildError, HelmError, RenderError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def write(base: Sequence[Object], install: Path, directory: Path) -> None:
    """install.yaml, and the chart in a directory of its own: what else is in there goes."""
    install.parent.mkdir(parents=True, exist_ok=True)
    install.write_text(install_yaml(base))
    shutil.rmtree(directory, ignore_errors=True)
    for name, text in chart.files(base, components()).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def components() -> dict[str, list[Object]]:
    """The objects of each optional component."""
    return {name: render(COMPONENTS / name) for name in chart.COMPONENTS}


def verify() -> int:
    """0 when the files are what the source gives and the chart, with Helm, renders the same objects."""
    base, optional = render(BASE), components()
    stale = _stale(base, optional)
    if stale:
        print(f"{stale}verify: run `make generate`", file=sys.stderr)
        return 1
    print("verify: manifests/install.yaml and manifests/helm are up to date")
    helm = Helm(find_helm())
    helm.lint(chart.CHART)
    wanted = [obj for obj in base if obj["kind"] != "Namespace"]
    every = {value: {"enabled": True} for value in chart.COMPONENTS.values()}
    for what, values, objects in (
        ("base", {}, wanted),
        ("base and all components", every, [*wanted, *(obj for found in optional.values() for obj in found)]),
    ):
        found = difference(objects, helm.template(chart.CHART, namespace=chart.NAMESPACE, values=values))
        if found:
            print(f"{found}verify: the chart differs from {what}", file=sys.stderr)
            return 1
        print(f"verify: the chart renders what kustomize does ({what}, {len(objects)} objects)")
    return 0


def _stale(base: Sequence[Object], optional: dict[str, list[Object]]) -> str:
    """A diff of the committed files against what would be written."""
    wanted = {INSTALL: install_yaml(base)}
    wanted |= {chart.CHART / name: text for name, text in chart.files(base, optional).items()}
    present = {path for path in chart.CHART.rglob("*") if path.is_file()} | ({INSTALL} if INSTALL.exists() else set())
    diffs: list[str] = []
    for path in sorted(present | wanted.keys()):
        have = path.read_text() if path in present else ""
        old, new = (text.splitlines(keepends=True) for text in (have, wanted.get(path, "")))
        diffs += difflib.unified_diff(old, new, f"committed: {path}", f"rendered: {path}")
    return "".join(diffs)


if __name__ == "__main__":
    sys.exit(main())
