"""Tags that any MLflow run started inside a Moola project gets, also from a plain notebook.

MLflow finds this through the entry point ``mlflow.run_context_provider``.
"""

from __future__ import annotations

import json
from pathlib import Path

from mlflow.tracking.context.abstract_context import RunContextProvider

from moola.config import names
from moola.hashing import sha256_file


class MoolaContext(RunContextProvider):
    """Says which window sets and splits the project holds, and which code it is."""

    def in_context(self) -> bool:
        """Return whether the working directory is in a Moola project."""
        return project_folder() is not None

    def tags(self) -> dict[str, str]:
        """Return the tags, by digest of what is on the disk."""
        from moola.tracking.lineage import git_state, git_tags

        folder = project_folder()
        if folder is None:
            return {}
        data = folder / "data"
        manifests = sorted(data.glob("*_windows/*/manifest.json"))
        sets = {
            f"{p.parent.parent.name}/{p.parent.name}": json.loads(p.read_text()).get("sha256", "")
            for p in manifests
        }
        splits = {p.stem: sha256_file(p) for p in sorted((data / "splits").glob("*.json"))}
        tags_by_name = {names.TAG_SETS: sets, names.TAG_SPLITS: splits}
        return {
            **git_tags(git_state(folder)),
            **{tag: _listed(values) for tag, values in tags_by_name.items() if values},
        }


def project_folder() -> Path | None:
    """Return the nearest folder upwards with ``.moola`` or built window sets; None if none is."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".moola").is_dir() or (folder / "data" / "labeled_windows").is_dir():
            return folder
    return None


def _listed(digests: dict[str, str]) -> str:
    return ", ".join(f"{name}@{digest[:12]}" for name, digest in digests.items())[: names.TAG_CHARS]
