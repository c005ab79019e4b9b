"""One model, many routes: the same probabilities by each of them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serve_kit import (
    CLASSES,
    NAME,
    Stand,
    as_json,
    calling,
    expected_proba,
    in_folder,
    mlflow_serve,
    npz,
    random_windows,
)

from moola.cli import main
from moola.serving.bodies import ARROW, CSV, JSON, NPZ
from moola.serving.inputs import window_columns
from moola.serving.scoring import WindowScorer

X = random_windows(7, seed=9)
COLUMNS = [f"probability_{name}" for name in CLASSES]


def expected(stand: Stand) -> np.ndarray:
    return expected_proba(stand, X, "1")


def arrow(values: np.ndarray) -> bytes:
    flat = pa.array(values.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, values[0].size)
    sink = pa.BufferOutputStream()
    table = pa.table({"window": column})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def wide(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values.reshape(len(values), -1), columns=window_columns(values.shape[1]))


def in_base64(values: np.ndarray) -> bytes:
    text = base64.b64encode(values.astype("<f4").tobytes()).decode()
    return json.dumps({"inputs_base64": text, "shape": list(values.shape)}).encode()


BODIES = {
    "json": (as_json(X), JSON),
    "instances": (json.dumps({"instances": X.tolist()}).encode(), f"{JSON}; charset=utf-8"),
    "split": (json.dumps({"dataframe_split": wide(X).to_dict("split")}).encode(), JSON),
    "records": (json.dumps({"dataframe_records": wide(X).to_dict("records")}).encode(), JSON),
    "csv": (wide(X).to_csv(index=False).encode(), CSV),
    "base64": (in_base64(X), JSON),
    "npz": (npz(X), NPZ),
    "arrow": (arrow(X), ARROW),
}


@pytest.mark.parametrize("body", list(BODIES))
def test_moola_serve_answers_what_the_model_answers(
    stand: Stand, server: tuple[str, int], body: str
) -> None:
    with calling(server[0]) as call:
        reply = call(*BODIES[body])
    assert np.abs(reply.proba() - expected(stand)).max() < 1e-6
    assert reply.headers["x-model-version"] == "1"
    assert {row["model_version"] for row in reply.rows()} == {"1"}


@pytest.mark.parametrize("body", ["json", "split", "records", "csv"])
def test_mlflow_models_serve_answers_the_same(stand: Stand, plain_server: str, body: str) -> None:
    with calling(plain_server) as call:
        reply = call(*BODIES[body])
    assert np.abs(reply.proba() - expected(stand)).max() < 1e-6
    assert [row["label"] for row in reply.rows()] == expected(stand).argmax(axis=1).tolist()


def test_saved_loaded_and_from_a_file_it_is_the_same(stand: Stand, tmp_path: Path) -> None:
    loaded = WindowScorer.load(stand.folder / "made-1" / "checkpoint")
    assert np.abs(loaded.probabilities(X) - expected(stand)).max() < 1e-6
    mlflow.set_tracking_uri(stand.uri)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    for form in (X, X.tolist(), wide(X)):
        answer = model.predict(form)
        assert np.abs(answer[COLUMNS].to_numpy() - expected(stand)).max() < 1e-6
    assert set(answer["model_version"]) == {"1"}
    np.save(tmp_path / "X.npy", X)
    wide(X).to_csv(tmp_path / "X.csv", index=False)
    wide(X).to_parquet(tmp_path / "X.parquet", index=False)
    with in_folder(stand.folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", stand.uri)
        for name in ("X.npy", "X.csv", "X.parquet"):
            out = tmp_path / f"{name}.out"
            words = ["predict", str(tmp_path / name), "--model", f"models:/{NAME}/1"]
            with pytest.raises(SystemExit) as ended:
                main([*words, "--output", str(out)])
            assert ended.value.code == 0
            found = pq.read_table(out).to_pandas()
            assert np.abs(found[COLUMNS].to_numpy() - expected(stand)).max() < 1e-6


def test_parameters_reach_the_model_by_every_route(
    stand: Stand, server: tuple[str, int], plain_server: str
) -> None:
    raw = stand.models["1"].predict_proba(X)
    params = {"calibrated": False, "return_set": True}
    model = mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    answer = model.predict(X, params=params)
    assert np.abs(answer[COLUMNS].to_numpy() - raw).max() < 1e-6
    proba = expected(stand)
    sets = [[c for c, p in zip(CLASSES, row, strict=True) if p >= 0.4] for row in proba]
    assert answer["label_set"].tolist() == sets
    for url in (server[0], plain_server):
        with calling(url) as call:
            reply = call(as_json(X, params=params))
        assert np.abs(reply.proba() - raw).max() < 1e-6
        assert [row["label_set"] for row in reply.rows()] == sets
    with calling(server[0]) as call:
        reply = call(npz(X), NPZ, path="/invocations?calibrated=false", accept=ARROW)
    table = pa.ipc.open_stream(reply.body).read_all().to_pandas()
    assert np.abs(table[COLUMNS].to_numpy() - raw).max() < 1e-6


def test_any_price_level_is_answered_alike(stand: Stand, server: tuple[str, int]) -> None:
    with calling(server[0]) as call:
        low, high = (call(npz((X * scale).astype(np.float32)), NPZ) for scale in (1e-3, 1e5))
    assert np.abs(low.proba() - high.proba()).max() < 1e-4


@pytest.mark.slow
def test_stage_alias_and_two_workers_of_mlflow_models_serve(stand: Stand) -> None:
    for model, options in (("/Production", ()), ("@production", ("--workers", "2"))):
        with mlflow_serve(stand, model, *options) as url, calling(url) as call:
            assert np.abs(call(as_json(X)).proba() - expected(stand)).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "csv"])
def test_mlflow_models_predict_on_files(stand: Stand, tmp_path: Path, form: str) -> None:
    source, out = tmp_path / f"X.{form}", tmp_path / "out.json"
    source.write_bytes(BODIES[form][0])
    subprocess.run(
        [sys.executable, "-m", "mlflow", "models", "predict", "-m", f"models:/{NAME}@production",
         "-i", str(source), "-o", str(out), "-t", form, "--env-manager", "local"],
        env={**os.environ, "MLFLOW_TRACKING_URI": stand.uri}, check=True, capture_output=True,
    )  # fmt: skip
    rows = json.loads(out.read_text())["predictions"]
    assert np.abs(pd.DataFrame(rows)[COLUMNS].to_numpy() - expected(stand)).max() < 1e-6


def test_paths_are_those_of_mlflow(server: tuple[str, int], plain_server: str) -> None:
    with calling(server[0]) as ours, calling(plain_server) as theirs:
        for path in ("/ping", "/health", "/version"):
            mine, other = ours.get(path), theirs.get(path)
            assert (mine.status, mine.body) == (other.status, other.body)
        tagged = ours.get("/version", x_request_id="a-1")
        assert tagged.headers["x-model-proven"] == "true"
        assert tagged.headers["x-request-id"] == "a-1"
        assert ours.get("/ping", x_request_id="x" * 65).headers["x-request-id"] != "x" * 65
        page = ours.get("/metrics").body.decode()
    assert 'moola_windows_total{label="expansion",version="1"}' in page
    assert 'moola_requests_total{path="/version",status="200"}' in page


def test_spark_answers_the_same(stand: Stand) -> None:
    sql = pytest.importorskip("pyspark.sql", reason="pyspark is not installed")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    builder = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    try:
        rows = [(k, x.tolist()) for k, x in enumerate(X)]
        frame = spark.createDataFrame(rows, "id long, window array<array<float>>")
        answer = "label long, probability_consolidation double, probability_expansion double"
        mlflow.set_tracking_uri(stand.uri)
        score = mlflow.pyfunc.spark_udf(
            spark, f"models:/{NAME}/1", env_manager="local", result_type=answer
        )
        scored = frame.withColumn("p", score(sql.functions.struct("window")))
        found = scored.select("id", "p.*").orderBy("id").toPandas()
    finally:
        spark.stop()
    np.testing.assert_allclose(found[COLUMNS], expected(stand), atol=1e-6)
