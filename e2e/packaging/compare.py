"""What a chart renders against what kustomize renders, object by object."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable

from e2e.packaging.render import Key, Object, dump, key_of

_LABELS = (
    "helm.sh/chart",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
)
_ANNOTATIONS = ("helm.sh/resource-policy",)


def difference(kustomize: Iterable[Object], chart: Iterable[Object]) -> str:
    """A unified diff, empty when both say the same, apart from Helm's own labels."""
    wanted = {key_of(obj): obj for obj in kustomize}
    found = {key_of(obj): without_helms(obj) for obj in chart}
    return "".join(_of_one(key, wanted.get(key), found.get(key)) for key in sorted(wanted.keys() | found.keys()))


def without_helms(obj: Object) -> Object:
    """A copy without what Helm adds to every object."""
    bare = copy.deepcopy(obj)
    for field, names in (("labels", _LABELS), ("annotations", _ANNOTATIONS)):
        entries = bare["metadata"].get(field)
        for name in names if entries else ():
            entries.pop(name, None)
        if entries == {}:
            del bare["metadata"][field]
    return bare


def _of_one(key: Key, wanted: Object | None, found: Object | None) -> str:
    if wanted == found:
        return ""
    name = "/".join(part for part in key if part)
    ours, theirs = (_sorted_text(side).splitlines(keepends=True) for side in (wanted, found))
    return "".join(difflib.unified_diff(ours, theirs, f"kustomize: {name}", f"chart: {name}"))


def _sorted_text(obj: Object | None) -> str:
    return dump(_sorted(obj)) if obj is not None else ""


def _sorted(node: object) -> object:
    if isinstance(node, dict):
        return {key: _sorted(node[key]) for key in sorted(node, key=str)}
    return [_sorted(item) for item in node] if isinstance(node, list) else node
