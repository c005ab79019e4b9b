"""Any MLflow model's answers to a table, from a process of its own; what comes back is checked."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from moola.config.base import Config, option
from moola.errors import PromotionRefused, printable, shown
from moola.promotion.answers.sandbox import WALLS

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "OMP_WAIT_POLICY", "LD_LIBRARY_PATH")
_PRIVATE = (".aws", ".azure", ".config", ".databrickscfg", ".mlflow", ".moola", ".netrc", ".ssh")
_MOST_SAID_BYTES = 1 << 17
_LEAST_SECONDS_LEFT = 10
_POLL_SECONDS = 0.05
_DUMPABLE, _GET_DUMPABLE = 4, 3
_CALLS = ("predict", "predict_proba")


@dataclass(frozen=True, kw_only=True)
class AnswerLimits(Config):
    """What a version may use while it answers."""

    seconds: int = option(600, "Seconds that each version may take.", low=1, high=86400)
    memory_mib: int = option(4096, "Memory in MiB that each version may use.", low=64)
    file_mib: int = option(512, "Largest file, and scratch folder, in MiB.", low=1)
    processes: int = option(64, "Processes and threads at once.", low=1)


@dataclass(frozen=True, kw_only=True)
class VersionAnswers:
    """A version's answers to a table.

    Attributes
    ----------
    values
        Numbers (float64, may be NaN) or texts, shape (n,) or (n, k).
    classes
        The classes as the model names them, in the order of its columns; None where it does not.
    call
        ``predict`` or ``predict_proba``.
    walls
        What was cut off while it ran, of ``network``, ``processes`` and ``files``.
    """

    values: NDArray[Any]
    classes: tuple[str | float, ...] | None
    call: str
    walls: tuple[str, ...]

    @property
    def not_cut(self) -> tuple[str, ...]:
        """What the kernel did not allow to cut off."""
        return tuple(wall for wall in WALLS if wall not in self.walls)


def answers_of(
    folder: Path,
    features: Path,
    *,
    num_rows: int,
    proba: bool,
    what: str,
    limits: AnswerLimits | None = None,
) -> VersionAnswers:
    """Load a model as MLflow does, in a process of its own, and have it answer a table.

    The process has an environment of a few variables (no key, no credentials), an empty home, and
    limits on time, memory, processes and sizes; where the kernel allows it, no network, nobody
    else's processes, and no file that it could write. Nothing is left of it.

    Parameters
    ----------
    folder
        A private copy of the version's files.
    features
        Parquet file of the features, without target and roles.
    num_rows
        Its rows.
    proba
        Call ``predict_proba`` where the model has one.
    what
        The version, for messages.
    limits
        What it may use.

    Returns
    -------
    VersionAnswers
        One answer a row.

    Raises
    ------
    PromotionRefused
        If the model does not load, raises, does not end within the limits, or answers something
        else than one row of numbers or texts for each row.
    """
    limits = limits or AnswerLimits()
    hidden = [Path.cwd() / ".moola", *(Path.home() / name for name in _PRIVATE)]
    packages = {*(Path(p).resolve() for p in (sys.prefix, *sys.path) if p), folder.resolve()}
    with (
        tempfile.TemporaryDirectory(prefix="moola-answers-") as scratch,
        tempfile.TemporaryFile() as values,
        tempfile.TemporaryFile() as report,
    ):
        asked = {
            "module": "moola.promotion.answers.process",
            "scratch": scratch,
            "scratch_mib": limits.file_mib,
            "hidden": [
                str(path)
                for path in hidden
                if path.exists() and not any(p.is_relative_to(path.resolve()) for p in packages)
            ],
            "model": str(folder.resolve()),
            "features": str(features.resolve()),
            "proba": proba,
            "answers": values.fileno(),
            "said": report.fileno(),
            "limits": limits.to_dict(),
        }
        code, why = _run(asked, limits, scratch)
        facts = _facts(report, what)
        error = why or facts.get("error")
        if error is None and code != 0:
            error = f"its process ended with code {code}" + " (killed)" * (code == 137)
        if error is not None:
            raise PromotionRefused(
                f"{what} cannot answer: {printable(str(error))[:500]}",
                remedy=None
                if why is None
                else "Give it more by --seconds and --memory-mib, or mend the model",
            )
        return VersionAnswers(
            values=_checked(values, num_rows, what),
            classes=_classes(facts.get("classes"), what),
            call=facts["call"] if facts.get("call") in _CALLS else "predict",
            walls=tuple(wall for wall in WALLS if wall in facts["walls"]),
        )


def _run(asked: Mapping[str, Any], limits: AnswerLimits, scratch: str) -> tuple[int, str | None]:
    """Run the process to its end; return its code, and why it was ended early."""
    env = {k: os.environ[k] for k in _PASSED_ON if k in os.environ}
    env |= {"HOME": scratch, "TMPDIR": scratch, "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"MLFLOW_TRACKING_URI": f"sqlite:///{scratch}/mlflow.db", "CUDA_VISIBLE_DEVICES": ""}
    env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    env["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # others reserve a GiB, which counts as used
    env["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    with _unreadable():
        process = subprocess.Popen(
            [sys.executable, "-m", "moola.promotion.answers.sandbox", json.dumps(asked)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=scratch,
            env=env,
            pass_fds=(asked["answers"], asked["said"]),
            start_new_session=True,
        )
        try:
            why = _watched(process, limits)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_LEAST_SECONDS_LEFT)
                except subprocess.TimeoutExpired:
                    process.kill()
            code = process.wait()
    return code, why


def _watched(process: subprocess.Popen[bytes], limits: AnswerLimits) -> str | None:
    """Wait for the end, or return which limit was passed."""
    page = os.sysconf("SC_PAGE_SIZE")
    ends = time.monotonic() + limits.seconds
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
            return None
        if time.monotonic() > ends:
            return f"it did not finish within {limits.seconds} s"
        below = list(_below(process.pid))
        if len(below) > limits.processes:
            return f"it started {len(below)} processes; at most {limits.processes} are allowed"
        if sum(map(_own_pages, below)) * page > 2 * limits.memory_mib << 20:
            return f"its processes use more than {2 * limits.memory_mib} MiB together"


def _below(pid: int) -> Iterator[int]:
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
            for thread in threads:
                children = Path(f"/proc/{parent}/task/{thread}/children").read_text().split()
                waiting += map(int, children)
                yield from map(int, children)
        except OSError:
            continue


def _own_pages(pid: int) -> int:
    try:
        _, resident, from_files, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return int(resident) - int(from_files)


@contextlib.contextmanager
def _unreadable() -> Iterator[None]:
    """Keep other processes of this user from reading this one's environment and memory."""
    libc = ctypes.CDLL(None)
    before = libc.prctl(_GET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_DUMPABLE, 0, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_DUMPABLE, before, 0, 0, 0)


def _facts(report: IO[bytes], what: str) -> Mapping[str, Any]:
    """Return what the process said: its walls, then what it did."""
    report.seek(0)
    lines = report.read(_MOST_SAID_BYTES).split(b"\n", 1)
    facts: dict[str, Any] = {"walls": []}
    try:
        for line in filter(None, lines):
            facts |= dict(json.loads(line))
    except (ValueError, TypeError, RecursionError):
        raise PromotionRefused(f"{what} cannot answer: its process says what is no JSON") from None
    walls = facts["walls"]
    facts["walls"] = walls if isinstance(walls, list) else []
    return facts


def _classes(stated: Any, what: str) -> tuple[str | float, ...] | None:
    if stated is None:
        return None
    if not isinstance(stated, list) or not all(isinstance(c, str | int | float) for c in stated):
        raise PromotionRefused(f"{what} names its classes {shown(stated)}", limit="texts, numbers")
    return tuple(stated)


def _checked(file: IO[bytes], num_rows: int, what: str) -> NDArray[Any]:
    """Read the array; its header is held against rows and size before anything is allocated."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        usable = dtype == np.float64 or (dtype.kind == "U" and dtype.itemsize <= 4 * 200)
        count = int(np.prod(shape, dtype=object))
        if not usable or size - file.tell() != count * dtype.itemsize:
            raise ValueError(f"{count} values of type {dtype} in {size} bytes")
        values = np.frombuffer(file.read(), dtype=dtype)
        values = values.reshape(shape, order="F" if fortran else "C")
        if dtype.kind == "U":
            "".join(values.ravel()[:1])  # texts beyond Unicode are an error here, not later
    except (ValueError, SyntaxError, OSError) as error:
        raise PromotionRefused(
            f"{what} cannot answer: what it wrote is no array ({printable(str(error))[:200]})"
        ) from None
    if values.ndim not in (1, 2) or len(values) != num_rows:
        raise PromotionRefused(
            f"{what} answers shape {values.shape}", limit=f"({num_rows},) or ({num_rows}, k)"
        )
    return values
