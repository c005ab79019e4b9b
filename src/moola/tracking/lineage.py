"""Where a run comes from: the code, the machine, the data."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag

from moola.config import names
from moola.data.store.container import DataContainer

_GIT_SECONDS = 10
_UNKNOWN = "git status or git diff failed: what was changed is not known\n"
_DIGEST_CHARS = 36  # MLflow's limit
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class GitState:
    """The commit a run was made from, and what was changed since; unknown counts as changed."""

    commit: str | None
    branch: str | None
    dirty: bool
    diff: str

    @property
    def short(self) -> str:
        """Seven digits of the commit, with ``+`` when changed; ``nogit`` outside a repository."""
        return f"{self.commit[:7]}{'+' if self.dirty else ''}" if self.commit else "nogit"


def git_state(folder: Path | None = None) -> GitState:
    """Return the state of the git checkout around a folder; all empty where there is none."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return GitState(commit=None, branch=None, dirty=False, diff="")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    diff = _git(folder, "diff", "HEAD") if status else ""
    return GitState(
        commit=commit,
        branch=_git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        dirty=status != "",
        diff=_UNKNOWN if status is None or diff is None else diff,
    )


def environment(device: str | None = None, seed: int | None = None) -> dict[str, Any]:
    """Return machine, threads, seed and every installed package as JSON-ready values."""
    facts: dict[str, Any] = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)),
        "device": device,
        "seed": seed,
        "threads": {k: v for k, v in os.environ.items() if k in _THREAD_VARIABLES},
        "packages": _packages(),
    }
    torch = sys.modules.get("torch")  # where it is not loaded, it has no part in the run
    if torch is not None:
        facts["threads"]["torch"] = torch.get_num_threads()
        facts["cuda"] = torch.version.cuda
        gpus = range(torch.cuda.device_count())
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in gpus]
    return facts


@cache
def _packages() -> dict[str, str]:
    return {d.name: d.version for d in metadata.distributions()}


def dataset_input(
    *, name: str, sha256: str, source: str, context: str, shape: tuple[int, ...]
) -> DatasetInput:
    """Describe a data set to MLflow with our own digest.

    MLflow's digest of an array looks at its first 10,000 numbers; ours is of every byte. The first
    36 digits go into the digest column, all 64 into the tag ``moola.sha256``.
    """
    dataset = Dataset(
        name=name,
        digest=sha256[:_DIGEST_CHARS],
        source_type="local",
        source=json.dumps({"uri": source}),
        profile=json.dumps({"num_windows": shape[0], "shape": list(shape)}),
    )
    tags = [
        InputTag(key="mlflow.data.context", value=context),
        InputTag(key=names.TAG_SHA256, value=sha256),
    ]
    return DatasetInput(dataset=dataset, tags=tags)


def part_input(data: DataContainer, part: str, context: str) -> DatasetInput:
    """Describe a part of a set under its split: ``train``, ``val`` or ``test``."""
    labeled = data.labeled
    return dataset_input(
        name=f"{labeled.name}@{data.split.name}/{part}",
        sha256=labeled.sha256,
        source=f"bars/{labeled.source}",
        context=context,
        shape=(len(getattr(data.split, part)), *labeled.X_ohlc.shape[1:]),
    )


def run_name(model: str, labeled: str, split: str, seed: int, git: GitState) -> str:
    """Return ``<model>-<set>-<split>-s<seed>-<short sha>``."""
    stem = split.removeprefix("splits/").removesuffix(".json")
    return f"{model}-{labeled.rpartition('/')[2]}-{stem}-s{seed}-{git.short}"


def git_tags(git: GitState) -> dict[str, str]:
    """Return the tags that tell a run's code."""
    tags = {names.TAG_GIT_DIRTY: str(git.dirty).lower()}
    if git.commit:
        tags[names.TAG_GIT_COMMIT] = git.commit
        tags[names.TAG_GIT_BRANCH] = git.branch or ""
    return tags


def _git(folder: Path | None, *args: str) -> str | None:
    try:
        process = subprocess.run(
            ["git", *args], cwd=folder, capture_output=True, encoding="utf-8", errors="replace",
            timeout=_GIT_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
