"""Lines of text out of a file that may be gzipped, damaged, endless or no text at all."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from spillway.simulate.traces.trace import BadTrace

GZIP_MAGIC = b"\x1f\x8b"
MAXIMUM_LINE_BYTES = 1 << 20  # a Mooncake line of 128k tokens has about 2 KB of hash ids
MAXIMUM_BYTES = 8 << 30  # unpacked; the largest public trace, a week of Azure 2024 conversations, has 1.1 GB


def lines(path: Path) -> Iterator[str]:
    """The lines of `path`, unpacked if its content is gzip, each with its line end. Raises BadTrace only."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(GZIP_MAGIC))
            file.seek(0)
            if magic == GZIP_MAGIC:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield from _text(path, unpacked)
            else:
                yield from _text(path, file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadTrace(f"{path}: the gzip data is damaged ({error}); fetch or pack the file again") from error
    except OSError as error:
        raise BadTrace(f"{path}: cannot be read ({error.strerror or error}); give the path of a trace file") from error
    except ValueError as error:
        if isinstance(error, BadTrace):
            raise
        # the operating system's view of paths: an embedded NUL
        raise BadTrace(f"{str(path)!r}: is no path ({error}); give the path of a trace file") from error


def _text(path: Path, file: IO[bytes] | gzip.GzipFile) -> Iterator[str]:
    number, total = 0, 0
    while raw := file.readline(MAXIMUM_LINE_BYTES + 1):
        number += 1
        total += len(raw)
        if len(raw) > MAXIMUM_LINE_BYTES:
            raise BadTrace(f"{path}, line {number}: longer than {MAXIMUM_LINE_BYTES:,} bytes; write one row a line")
        if total > MAXIMUM_BYTES:
            raise BadTrace(f"{path}: more than {MAXIMUM_BYTES:,} bytes unpacked; cut the trace to what you need")
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _binary(path, number) from error
        if "\0" in text:
            raise _binary(path, number)
        yield text


def _binary(path: Path, number: int) -> BadTrace:
    return BadTrace(f"{path}, line {number}: is not UTF-8 text; give CSV or JSON lines, plain or gzipped")
