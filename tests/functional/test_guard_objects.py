"""The guarded server over an object store: addresses that it signs for uploads."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import requests
from attacks_on_identity import ATTACKS_ON_OBJECTS
from guard_server import running
from guard_world import POLICY, World
from services import s3_store


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A guarded world whose runs keep their files in an object store, without the proxy."""
    pytest.importorskip("boto3", reason="an S3 store needs the extra s3 (boto3)")
    folder = tmp_path_factory.mktemp("objects")
    (folder / "server").mkdir()
    with s3_store(folder / "s3") as env, pytest.MonkeyPatch.context() as patch:
        for name, value in {**env, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}.items():
            patch.setenv(name, value)
        bucket = env["MOOLA_BUCKET"]
        with running(folder / "server", policy=POLICY, artifacts=bucket, more_env=env) as server:
            world = World(server, location=f"{bucket}/direct")
            yield world
            world.engine.dispose()


@pytest.mark.parametrize("name", ATTACKS_ON_OBJECTS)
def test_no_address_is_signed_for_a_frozen_file(world: World, name: str) -> None:
    status, text = ATTACKS_ON_OBJECTS[name](world)
    if status == 200:  # what such an address is good for
        signed = json.loads(text)
        requests.put(signed["presigned_url"], b"evil", headers=signed.get("headers"), timeout=30)
    assert world.state() == world.before
    assert status in (400, 403), text


def test_promotion_goes_on_over_objects(world: World) -> None:
    assert world.promote("2").champion_before == "1"
