"""Puts template expressions into rendered objects and writes the result as a template of Helm's.

An expression cannot stand in an object: it is no YAML. So a hole, which is a plain word, takes its place; after the
object is written as text the hole becomes the expression. All other text is escaped, so that Helm leaves it alone.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from e2e.packaging.render import Object, dump

_HOLE = re.compile(r"hole(\d+)hole")
_BLOCK = re.compile(r"^(?P<indent>\s*)(?:hole(?P<entry>\d+)hole: ''|- hole(?P<item>\d+)hole)$")
INDENT, NESTED = "<indent>", "<nested>"
"""In a block: the number of columns at which it stands, and two more, for `nindent`."""

Path = Sequence[str | int]


class Holes:
    """Objects of one template file, with expressions in them."""

    def __init__(self, objects: Sequence[Object]) -> None:
        self.objects = copy.deepcopy(list(objects))
        self._texts: list[str] = []
        self._blocks: set[int] = set()  # holes that stand for whole lines

    def value(self, obj: Object, path: Path, expression: str) -> None:
        """The scalar at the path becomes the expression. Raises KeyError or IndexError when there is none."""
        parent, last = _parent(obj, path)
        parent[last]
        parent[last] = self._hole(expression)

    def block(self, obj: Object, path: Path, lines: str) -> None:
        """The mapping entry at the path, present or not, becomes these lines."""
        parent, last = _parent(obj, path)
        hole = self._hole(lines, block=True)
        items = [(hole, "") if key == last else (key, found) for key, found in parent.items()]
        if last not in parent:
            items.append((hole, ""))
        parent.clear()
        parent.update(items)

    def item(self, obj: Object, path: Path, lines: str) -> None:
        """These lines follow the last item of the list at the path."""
        parent, last = _parent(obj, path)
        parent[last].append(self._hole(lines, block=True))

    def everywhere(self, words: dict[str, str]) -> None:
        """In each string that has one of these words, the word becomes its expression."""
        for obj in self.objects:
            _walk(obj, lambda text: self._replaced(text, words))

    def text(self, condition: str = "") -> str:
        """The template; with a condition, all of it holds only where the condition does."""
        body = "---\n".join(self._filled(dump(obj)) for obj in self.objects)
        return f"{{{{- if {condition} }}}}\n{body}{{{{- end }}}}\n" if condition else body

    def _hole(self, text: str, *, block: bool = False) -> str:
        self._texts.append(text)
        if block:
            self._blocks.add(len(self._texts) - 1)
        return f"hole{len(self._texts) - 1}hole"

    def _replaced(self, text: str, words: dict[str, str]) -> str:
        if not any(word in text for word in words):
            return text
        for word, expression in words.items():
            text = text.replace(word, f"{{{{ {expression} }}}}")
        return self._hole(text if text.startswith("{{") and text.endswith("}}") else f'"{text}"')

    def _filled(self, text: str) -> str:
        lines = []
        for line in text.replace("{{", '{{ "{{" }}').splitlines():
            alone = _BLOCK.match(line)
            number = int(alone["entry"] or alone["item"]) if alone else -1
            if alone and number in self._blocks:
                indent = alone["indent"]
                found = self._texts[number].replace(INDENT, str(len(indent))).replace(NESTED, str(len(indent) + 2))
                lines += [part if part.startswith("{{-") else indent + part for part in found.splitlines()]
            else:
                lines.append(_HOLE.sub(lambda match: self._texts[int(match[1])], line))
        return "\n".join(lines) + "\n"


def _parent(obj: Any, path: Path) -> tuple[Any, Any]:
    for part in path[:-1]:
        obj = obj[part]
    return obj, path[-1]


def _walk(node: Any, change: Any) -> None:
    for key, found in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if isinstance(found, str):
            node[key] = change(found)
        elif isinstance(found, dict | list):
            _walk(found, change)
