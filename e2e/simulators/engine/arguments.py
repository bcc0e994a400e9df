"""A table of flags becomes an argparse parser that refuses what the real engine would refuse."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NoReturn


@dataclass(frozen=True)
class Flag:
    """`names` as on the command line, the first one long. `read` is None for a switch without value."""

    names: tuple[str, ...]
    read: Callable[[str], object] | None
    many: bool = False
    negatable: bool = False


def switch(names: str, *, negatable: bool = False) -> Flag:
    return Flag(tuple(names.split()), None, negatable=negatable)


def whole(names: str) -> Flag:
    return Flag(tuple(names.split()), int)


def real(names: str) -> Flag:
    return Flag(tuple(names.split()), float)


def word(names: str, *, many: bool = False) -> Flag:
    return Flag(tuple(names.split()), str, many=many)


def table(names: str, keys: str = "") -> Flag:
    """A flag whose value is a JSON object, of these keys (separated by blanks) alone if any are given."""

    def read(value: str) -> dict[str, object]:
        decoded = _json_object(value)
        if keys and (unknown := decoded.keys() - set(keys.split())):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: Unexpected keyword argument")
        return decoded

    return Flag(tuple(names.split()), read)


def choice(names: str, choices: str) -> Flag:
    """One of `choices` (separated by blanks, `*` matches any text)."""
    allowed = choices.split()

    def read(value: str) -> str:
        if not any(fnmatchcase(value, pattern) for pattern in allowed):
            raise argparse.ArgumentTypeError(f"invalid choice: {value!r} (choose from {', '.join(allowed)})")
        return value

    return Flag(tuple(names.split()), read)


def parser(program: str, flags: Iterable[Flag], *, abbreviations: bool) -> argparse.ArgumentParser:
    """Values land under the first long name with underscores; absent flags are None (switches: False)."""
    built = argparse.ArgumentParser(prog=program, allow_abbrev=abbreviations)
    for flag in flags:
        if flag.read is not None:
            built.add_argument(*flag.names, type=flag.read, nargs="+" if flag.many else None)
        elif flag.negatable:
            built.add_argument(*flag.names, action=argparse.BooleanOptionalAction)
        else:
            built.add_argument(*flag.names, action="store_true")
    return built


def refuse_unknown(program: str, arguments: argparse.ArgumentParser, unknown: list[str]) -> None:
    """Exit with status 2 and the engine's words when anything was not understood."""
    if unknown:
        _fail(program, arguments, f"unrecognized arguments: {' '.join(unknown)}")


def _fail(program: str, arguments: argparse.ArgumentParser, message: str) -> NoReturn:
    arguments.print_usage()
    arguments.exit(2, f"{program}: error: {message}\n")


def _json_object(value: str) -> dict[str, object]:
    try:
        decoded = json.loads(value)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"Value {value} cannot be converted to <function loads>: {error}") from None
    if not isinstance(decoded, dict):
        raise argparse.ArgumentTypeError(f"Value {value} is not a JSON object")
    return decoded
