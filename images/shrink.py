# ruff: noqa: INP001 (a program of its own, run in the Dockerfiles)
"""`python3 shrink.py DIRECTORY…`: what a running program needs of installed Python packages, as bytecode.

Leaves out test suites, type stubs, what only C compilers read, and the parts of SciPy that its solver does not import
(27 MB; `python -m e2e.images check` makes a plan inside the image). Generated code (the Kubernetes client's models and
calls, protobuf messages) becomes bytecode without source and docstrings: nobody reads it, a traceback through it still
names file and line, and it is a quarter as large. Everything else keeps its source beside its bytecode.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import sys
from pathlib import Path

_TESTS = ("test", "tests")
_PARTS = tuple(
    f"scipy/{part}"
    for part in (
        *("cluster", "datasets", "differentiate", "fftpack", "integrate", "interpolate"),
        *("io", "misc", "ndimage", "odr", "signal", "stats"),
    )
)
_COMPILERS = (".pyi", ".pyx", ".pxd", ".h", ".hpp", ".c", ".cpp", ".a", ".f", ".f90")
_GENERATED_IN = ("kubernetes/client/", "kubernetes/aio/client/")
_GENERATED_AS = ("_pb2.py", "_pb2_grpc.py")
_HASH = py_compile.PycInvalidationMode.UNCHECKED_HASH  # the image never changes: nothing to compare at each start


def shrink(root: Path) -> None:
    """Shrink the packages below `root`; py_compile.PyCompileError if one cannot be compiled."""
    for path in sorted(root.rglob("*")):
        if not path.exists():
            continue
        if path.is_dir():
            if (path.name in _TESTS and _is_test_suite(path)) or _module(path, root) in _PARTS:
                shutil.rmtree(path)
        elif path.suffix in _COMPILERS:
            path.unlink()
        elif path.suffix == ".py" and _is_generated(_module(path, root)):
            py_compile.compile(
                str(path), cfile=str(path.with_suffix(".pyc")), optimize=2, invalidation_mode=_HASH, doraise=True
            )
            path.unlink()
    if not compileall.compile_dir(root, maxlevels=99, quiet=1, workers=0, invalidation_mode=_HASH):
        raise SystemExit(f"{root}: some modules cannot be compiled")


def _is_test_suite(directory: Path) -> bool:
    return any(directory.rglob("test_*.py")) or any(directory.rglob("*_test.py"))


def _module(path: Path, root: Path) -> str:
    """The path as Python imports it, such as scipy/stats."""
    inside = path.relative_to(root).as_posix()
    return inside.partition("site-packages/")[2] or inside


def _is_generated(module: str) -> bool:
    return module.startswith(_GENERATED_IN) or module.endswith(_GENERATED_AS)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        shrink(Path(name))
