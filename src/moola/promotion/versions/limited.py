"""A process of its own with limits, for whatever touches a stranger's version.

``python -m moola.promotion.versions.limited '{"task": ..., "memory_mib": ..., ...}'``

It runs no code that came with the version. What goes wrong in it, a killed process included, is a
refusal in the process that asked.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from moola.errors import MoolaError, PromotionRefused, missing_extra, one_line, printable

SECONDS = 120
MEMORY_MIB = 4096

_TASKS = {
    "score": "moola.promotion.versions.referee_score.score",
    "inspect": "moola.promotion.versions.inspection.inspect_here",
}
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_LIBRARY_PATH")
_LARGEST_FILE_BYTES = 1 << 20
_LONGEST_LINE = 600


def run_limited(
    task: str,
    asked: Mapping[str, Any],
    *,
    failed: str,
    seconds: int = SECONDS,
    memory_mib: int = MEMORY_MIB,
) -> Mapping[str, Any]:
    """Run a task on a version's folder in a process of its own.

    Parameters
    ----------
    task
        ``score`` or ``inspect``.
    asked
        Its arguments, JSON-ready.
    failed
        How the sentence of a refusal begins.
    seconds, memory_mib
        Limits: time, and memory beyond what the libraries take.

    Returns
    -------
    What the task found.

    Raises
    ------
    PromotionRefused
        If it refuses the version, fails, or does not end within the limits.
    """
    stated = json.dumps({"task": task, "seconds": seconds, "memory_mib": memory_mib, **asked})
    env = {k: os.environ[k] for k in _PASSED_ON if k in os.environ}
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with tempfile.TemporaryDirectory(prefix="moola-limited-") as work:
        process = subprocess.Popen(
            [sys.executable, "-m", "moola.promotion.versions.limited", stated],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=work,
            env=env | {"HOME": work, "TMPDIR": work},
            start_new_session=True,
        )
        try:
            answer, trouble = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise PromotionRefused(f"{failed}: it did not finish", limit=f"{seconds} s") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        lines = trouble.decode(errors="replace").strip().splitlines()
        why = printable(lines[-1])[:_LONGEST_LINE] if lines else f"it ended: {process.returncode}"
        raise PromotionRefused(f"{failed}: {why}")
    result: Mapping[str, Any] = json.loads(answer.splitlines()[-1])
    if refused := result.get("refused"):
        problem, wanted, remedy = refused
        raise PromotionRefused(f"{failed}: {problem}", limit=wanted, remedy=remedy)
    return result


def main(argument: str) -> int:
    """Run a task and print what it found; what goes wrong is one line and code 1."""
    asked = json.loads(argument)
    module, _, name = _TASKS[asked.pop("task")].rpartition(".")
    seconds, memory_mib = asked.pop("seconds"), asked.pop("memory_mib")
    task = getattr(import_module(module), name)
    try:
        import torch  # noqa: F401  libraries may be larger than the limit, which is for the version

        limit(memory_mib=memory_mib, seconds=seconds)
        result = task(**asked)
    except MoolaError as error:
        result = {"refused": (error.problem, error.limit, error.remedy)}
    except ModuleNotFoundError as error:
        sys.stderr.write(f"\n{missing_extra(error) or error}\n")
        return 1
    except Exception as error:  # the process that asked shows the line to whoever asked it
        sys.stderr.write(f"\n{type(error).__name__}: {one_line(error)}\n")
        return 1
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def limit(*, memory_mib: int, seconds: int) -> None:
    """Set the process's limits; a hard limit already lower stays."""
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    for kind, value in (
        (resource.RLIMIT_AS, mapped + (memory_mib << 20)),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (lowest, lowest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
