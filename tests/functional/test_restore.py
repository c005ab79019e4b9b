"""Backup, destroy, restore: by the very scripts of the image, on PostgreSQL and an S3 store."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from promotion_kit import NAME, ask_promotion, evaluate, make_version
from pyarrow import fs
from services import DOCKER, Postgres, guarded_server, postgres_or_skip, s3_store

from moola.cli import main
from moola.promotion.evidence.keys import load_signing_key
from moola.promotion.ledger.remote import RemoteLedger

pytest.importorskip("moto.server", reason="needs moto[server]")


@contextlib.contextmanager
def stores(folder: Path) -> Iterator[tuple[Postgres, dict[str, str]]]:
    """An empty database and an empty bucket, and the variables that name them."""
    with postgres_or_skip() as database, s3_store(folder) as s3:
        yield database, {**s3, **database.env, "MOOLA_WORKERS": "1", "PYTHON": sys.executable}


def script(name: str, *words: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DOCKER / name, *words],
        env={**os.environ, **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def put_into_production(url: str, project: Path) -> None:
    """Log, evaluate and promote one version over HTTP."""
    client, key = MlflowClient(url), load_signing_key(project, env={})
    client.create_experiment("work")
    version = make_version(client, project)
    evaluate(client, key, version, model="of another make")
    ask_promotion(client, RemoteLedger(url), key, version)


def remove_weights(env: dict[str, str]) -> None:
    """Delete a file of the model in the bucket, past the server."""
    endpoint = env["MLFLOW_S3_ENDPOINT_URL"].removeprefix("http://")
    store = fs.S3FileSystem(
        access_key="testing", secret_key="testing", endpoint_override=endpoint, scheme="http",
        region="us-east-1",
    )  # fmt: skip
    found = store.get_file_info(fs.FileSelector("moola/artifacts", recursive=True))
    (path,) = (f.path for f in found if f.path.endswith("model/weights.safetensors"))
    store.delete_file(path)


def test_backup_destroy_restore_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project, saved = tmp_path / "project", tmp_path / "saved"
    project.mkdir()
    monkeypatch.chdir(project)

    def verify(url: str) -> tuple[int, str]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["verify"])
        return int(str(stop.value.code)), capsys.readouterr().out

    with stores(tmp_path / "first") as (_, env):
        with guarded_server(project, env) as url:
            put_into_production(url, project)
            code, before = verify(url)
            assert (code, "In Production: 1" in before) == (0, True)
            made = script("backup", saved, env=env)
            assert made.returncode == 0, made.stderr
            assert "files of s3://moola/artifacts" in made.stdout
        refused = script("restore", saved, env=env)
        assert refused.returncode == 2
        assert "restore into an empty one" in refused.stderr
    with stores(tmp_path / "second") as (_, env):  # the first ones are gone, data and all
        restored = script("restore", saved, env=env)
        assert restored.returncode == 0, restored.stderr
        with guarded_server(project, env) as url:
            assert verify(url) == (0, before)
            assert MlflowClient(url).get_model_version_by_alias(NAME, "production").version == "1"
            remove_weights(env)
            code, after = verify(url)
            assert (code, "In Production: 1" in after) == (1, True)
