"""Which compiled files of a model hold just what the source beside them compiles to.

`marshal` may crash on files that were made up, and `compile` take any amount of memory. So this
file is run by its path, in a process of its own with limits; it imports nothing but the standard
library and runs nothing of what it reads.
"""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import CodeType

_HEADER_BYTES = 16
_LARGEST_FILE_BYTES = 8 << 20
_MEMORY_BYTES = 1 << 30
_SECONDS = 60
_NOT_COMPARED = ("co_flags", "co_stacksize", "co_exceptiontable", "co_linetable")


def plain_caches(root: Path) -> frozenset[str]:
    """Return the compiled files below a folder that hold just what their source compiles to.

    Parameters
    ----------
    root
        The folder.

    Returns
    -------
    frozenset of str
        Paths relative to it; none at all if they cannot be read within 60 s and 1 GiB.
    """
    if not _candidates(root):
        return frozenset()
    passed_on = ("LD_LIBRARY_PATH",)  # where the interpreter may find its own library
    try:
        process = subprocess.run(
            [sys.executable, "-I", "-S", __file__, str(root)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=True,
            env={name: os.environ[name] for name in passed_on if name in os.environ},
        )
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    return frozenset(json.loads(process.stdout))


def _candidates(root: Path) -> list[Path]:
    return [
        path
        for path in sorted(root.rglob("__pycache__/*.pyc"))
        if ".opt-" not in path.name and path.is_file() and not path.is_symlink()
    ]


def _is_plain(path: Path) -> bool:
    try:
        source = Path(importlib.util.source_from_cache(str(path)))
        if max(path.stat().st_size, source.stat().st_size) > _LARGEST_FILE_BYTES:
            return False
        data = path.read_bytes()
        if not source.is_file() or data[:4] != importlib.util.MAGIC_NUMBER:
            return False
        compiled = marshal.loads(data[_HEADER_BYTES:])
        expected = compile(source.read_bytes(), "", "exec", dont_inherit=True, optimize=0)
        return isinstance(compiled, CodeType) and _same_code(compiled, expected)
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False


def _same_code(a: CodeType, b: CodeType) -> bool:
    """Return whether two code objects run alike: Python's own comparison leaves some fields out."""
    alike = a == b and all(getattr(a, field) == getattr(b, field) for field in _NOT_COMPARED)
    pairs = zip(a.co_consts, b.co_consts, strict=False)
    return alike and all(_same_code(x, y) for x, y in pairs if isinstance(x, CodeType))


def main(root: str) -> None:
    """Write the paths as JSON."""
    for kind, most in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        lowest = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (lowest, lowest))
    folder = Path(root)
    plain = [p.relative_to(folder).as_posix() for p in _candidates(folder) if _is_plain(p)]
    sys.stdout.write(json.dumps(plain))


if __name__ == "__main__":
    main(sys.argv[1])
