"""The guarded server over an object store: signed addresses, multipart uploads, places of files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from attacks_on_identity import ATTACKS_ON_OBJECTS
from guard_server import running
from guard_world import POLICY, World
from promotion_kit import NAME, evaluate, make_version
from services import s3_store

from moola.errors import PromotionRefused
from moola.promotion.guard.uploads import LONGEST_ADDRESS_SECONDS

pytestmark = pytest.mark.usefixtures("quick_client")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server whose runs keep their files at ``s3://`` addresses, clients with the same rights."""
    folder = tmp_path_factory.mktemp("objects")
    with s3_store(folder / "s3") as env, pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        root = env["MOOLA_BUCKET"]
        more = {**env, "MLFLOW_DEFAULT_ARTIFACT_ROOT": root}
        with running(folder, policy=POLICY, artifacts=root, more_env=more) as server:
            made = World(server)
            yield made
            made.engine.dispose()


def address(world: World, run_id: str, path: str, **more: object) -> tuple[int, dict]:
    body = {"run_id": run_id, "path": path, **more}
    status, text = world.post("artifacts/presigned-upload-url", body)
    return status, json.loads(text)


@pytest.mark.parametrize(
    "path",
    ["model/weights.safetensors", "model/new.py", "model//MLmodel", "model", "elsewhere/MLmodel"],
)
def test_no_address_writes_to_frozen_files(world: World, path: str) -> None:
    status, answer = address(world, world.run_id, path)
    assert status == 403
    assert "they are frozen" in answer["message"]
    assert world.state() == world.before


@pytest.mark.parametrize("name", ATTACKS_ON_OBJECTS)
def test_no_address_is_signed_for_a_frozen_file(world: World, name: str) -> None:
    status, text = ATTACKS_ON_OBJECTS[name](world)
    if status == 200:  # what such an address is good for
        signed = json.loads(text)
        requests.put(signed["presigned_url"], b"evil", headers=signed.get("headers"), timeout=30)
    assert world.state() == world.before
    assert status in (400, 403), text


@pytest.mark.parametrize("asked", [None, 60, 10**6, -5])
def test_an_address_is_short_lived_and_works(world: World, asked: int | None) -> None:
    run = world.client.create_run(world.experiment_id).info.run_id
    more = {} if asked is None else {"expiration": asked}
    status, answer = address(world, run, "plot.txt", **more)
    assert status == 200, answer
    assert 0 < seconds_valid(answer["presigned_url"]) <= LONGEST_ADDRESS_SECONDS
    assert requests.put(
        answer["presigned_url"], data=b"x", headers=answer["headers"], timeout=30
    ).ok
    assert [f.path for f in world.client.list_artifacts(run)] == ["plot.txt"]


def seconds_valid(url: str) -> float:
    query = {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()}
    if "Expires" in query:  # an instant, as older signatures have it
        return float(query["Expires"]) - time.time()
    return float(query["X-Amz-Expires"])


def test_a_version_waits_for_an_address_that_writes_its_files(world: World) -> None:
    version = make_version(world.client, world.folder, weights="addressed")
    evaluate(world.client, world.server.key, version)
    run_id = world.client.get_model_version(NAME, version).run_id
    assert address(world, run_id, "model/weights.safetensors")[0] == 200
    with pytest.raises(PromotionRefused, match="may still be written to, by an upload or an addre"):
        world.promote(version)
    assert world.state() == world.before


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("mlflow-artifacts:/artifacts/mine", "spelt in another way"),
        ("s3://moola/elsewhere", "outside"),
        ("s3://moola/artifacts", "outside"),
        ("s3://moola/artifacts/../artifacts/x", "spelt in another way"),
        ("s3://moola/artifacts//x", "spelt in another way"),
        ("s3://moola/artifacts/%78", "spelt in another way"),
        ("S3://moola/artifacts/{run}", "where experiments without"),
        ("s3://moola/artifacts/{experiment}", "where experiments without"),
        ("s3://moola/artifacts/9999", "where experiments without"),
        ("s3://MOOLA/artifacts/x", "outside"),
        ("file:///tmp/x", "spelt in another way"),
        ("r2://moola/artifacts/x", "spelt in another way"),
    ],
)
def test_no_experiment_is_placed_where_others_are(world: World, location: str, why: str) -> None:
    at = location.format(experiment=world.experiment_id, run=world.root)
    status, text = world.post("experiments/create", {"name": at, "artifact_location": at})
    assert status >= 400, text
    assert why in text or "cannot use" in text
    assert world.state() == world.before


def test_experiments_have_places_apart_from_each_other(world: World) -> None:
    root = "s3://moola/artifacts"
    assert world.client.create_experiment("team", artifact_location=f"{root}/team/a")
    for other in ("team", "team/a", "team/a/b", "team/a/"):
        body = {"name": other, "artifact_location": f"{root}/{other}"}
        status, text = world.post("experiments/create", body)
        assert (status, "overlaps" in text or "spelt" in text) == (403, True), (other, text)
    assert world.client.create_experiment("team b", artifact_location=f"{root}/team/ab")


def test_parts_begun_before_a_promotion_never_become_a_file_after_it(world: World) -> None:
    world.client.create_registered_model("Parts")
    version = make_version(world.client, world.folder, weights="parts", name="Parts")
    evaluate(world.client, world.server.key, version, name="Parts")
    run_id = world.client.get_model_version("Parts", version).run_id
    place = f"{world.experiment_id}/{run_id}/artifacts/model"

    def parts(what: str, **more: object) -> tuple[int, str]:
        body = {"path": "weights.safetensors", **more}
        return world.server.send("POST", f"/api/2.0/mlflow-artifacts/mpu/{what}/{place}", body)

    status, text = parts("create", num_parts=1)
    assert status == 200, text
    begun = json.loads(text)
    etag = requests.put(begun["credentials"][0]["url"], data=b"evil", timeout=30).headers["ETag"]
    assert world.promote(version, "Parts").allowed
    finished = {"upload_id": begun["upload_id"], "parts": [{"part_number": 1, "etag": etag}]}
    for what, more in (
        ("complete", finished),
        ("create", {"num_parts": 1}),
        ("abort", {"upload_id": begun["upload_id"]}),
    ):
        status, text = parts(what, **more)
        assert (status, "they are frozen" in text) == (403, True), (what, text)
    kept = world.client.download_artifacts(run_id, "model/weights.safetensors")
    assert Path(kept).read_bytes() == b"parts"
    assert parts("create", num_parts=10**9)[0] == 403
