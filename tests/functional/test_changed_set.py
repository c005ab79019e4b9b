"""A built set changed behind its digests: training ends, and its run says why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from job_kit import TINY
from mlflow import MlflowClient

from moola.config import names
from moola.errors import AuditError
from moola.steps.finetune import finetune


def test_a_changed_byte_in_a_built_set_ends_the_run_failed(
    project: Path, data_root: Path, tmp_path: Path
) -> None:
    (project / "data").unlink()
    shutil.copytree(data_root, project / "data")
    victim = project / "data" / "labeled_windows" / "v1" / "y.npy"
    content = bytearray(victim.read_bytes())
    content[-8] ^= 1
    victim.write_bytes(bytes(content))
    with pytest.raises(AuditError, match=r"y\.npy"):
        finetune(TINY)
    client = MlflowClient()
    runs = client.search_runs(
        [client.get_experiment_by_name(names.EXPERIMENT_FINETUNE).experiment_id]
    )
    assert [r.info.status for r in runs] == ["FAILED"]
    assert "y.npy" in runs[0].data.tags[names.TAG_REASON]
