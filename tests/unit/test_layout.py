"""The source root `operator/` must never stand in for Python's own module of that name; nothing names a registry."""

from __future__ import annotations

import operator
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE_ROOT = REPOSITORY / "operator"
# Written in two parts, so that this file may be committed.
REGISTRIES = ["pypi." + "org", "files." + "pythonhosted", "proxy." + "golang.org", "deb." + "debian.org"]
REGISTRIES += ["registry." + "npmjs"]


def test_the_source_root_is_no_package() -> None:
    # With an __init__.py here, `python -m pytest` and every `import json` from the repository's root would break.
    assert not (SOURCE_ROOT / "__init__.py").exists()
    assert (SOURCE_ROOT / "spillway" / "__init__.py").exists()


def test_the_module_operator_is_pythons_own() -> None:
    assert operator.__spec__ is not None
    assert operator.__spec__.origin is not None
    assert Path(operator.__spec__.origin).is_relative_to(sys.base_prefix)


def test_python_starts_in_the_repository_with_the_working_directory_on_its_path() -> None:
    code = "import sys; sys.path.insert(0, ''); import json, operator; print(operator.__spec__.origin)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).is_relative_to(REPOSITORY / "operator")


def test_nothing_in_the_source_root_is_called_like_a_module_of_pythons() -> None:
    names = {path.stem for path in SOURCE_ROOT.iterdir() if path.suffix in ("", ".py")}
    assert names, "the source root is empty"
    assert not names & sys.stdlib_module_names


def test_no_committed_file_names_a_registry() -> None:
    patterns = [part for registry in REGISTRIES for part in ("-e", registry)]
    command = ["git", "grep", "-lIF", *patterns]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1, f"registries are the machine's own business: {done.stdout}{done.stderr}"


def test_every_directory_of_tests_is_a_package() -> None:
    directories = {path.parent for path in (REPOSITORY / "tests").rglob("*.py")}
    assert [str(d) for d in directories if not (d / "__init__.py").exists()] == []
