"""A registry on an object store: a local S3 server, a cache checked by digest."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from moola.cli import ingest as command
from moola.config.data import SplitRecipe, WindowRecipe
from moola.data.shipped import copy_shipped_bars
from moola.data.store.data_store import DataStore
from moola.errors import AuditError, DataError

moto_server = pytest.importorskip("moto.server")

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "bars"
SET = "labeled_windows/v1"
RECIPE = WindowRecipe(source="eurusd_1h", window_bars=24, step_bars=12, cross_gaps=True)


@pytest.fixture(scope="module")
def endpoint():
    server = moto_server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def store(endpoint, monkeypatch, tmp_path, request):
    """(URL of an empty registry, its file system, its path in there)."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("MOOLA_CACHE", str(tmp_path / "cache"))
    remote = fs.S3FileSystem(
        access_key="testing", secret_key="testing", endpoint_override=endpoint, scheme="http",
        region="us-east-1", allow_bucket_creation=True,
    )  # fmt: skip
    bucket = f"moola-{abs(hash(request.node.name)) % 10**8}"
    remote.create_dir(bucket)
    with remote.open_output_stream(f"{bucket}/reg/bars/eurusd_1h.parquet") as stream:
        stream.write((SHIPPED / "eurusd_1h.parquet").read_bytes())
    url = f"s3://{bucket}/reg?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    return url, remote, f"{bucket}/reg"


def test_the_shipped_bars_are_brought_where_the_registry_stands(store, tmp_path):
    url, remote, base = store
    assert copy_shipped_bars(url) == ("btcusd_1h.parquet",)
    with remote.open_input_stream(f"{base}/bars/btcusd_1h.parquet") as stream:
        assert stream.read() == (SHIPPED / "btcusd_1h.parquet").read_bytes()
    assert copy_shipped_bars(url) == ()
    remote.delete_file(f"{base}/bars/btcusd_1h.parquet")  # the cache still has it
    assert copy_shipped_bars(url) == ("btcusd_1h.parquet",)
    with remote.open_output_stream(f"{base}/bars/eurusd_1h.parquet") as stream:
        stream.write(b"mine")
    with pytest.raises(DataError, match="not the file that ships"):
        copy_shipped_bars(url)


class Failing:
    """A file system whose uploads of one file break off: in the middle, or as they are closed."""

    def __init__(self, filesystem, name, moment):
        self._filesystem, self._name, self._moment = filesystem, name, moment

    def __getattr__(self, attribute):
        return getattr(self._filesystem, attribute)

    @contextmanager
    def open_output_stream(self, path):
        with self._filesystem.open_output_stream(path) as stream:
            breaks = self._name in path
            if breaks and self._moment == "write":
                stream.write(b"half")
                raise OSError("the line\nwent dead")
            yield stream
        if breaks:
            raise OSError("the line\nwent dead")


@pytest.fixture
def file_store(monkeypatch, tmp_path):
    """(URL of a registry in a folder, its folder), with the shipped bars."""
    monkeypatch.setenv("MOOLA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "there" / "bars").mkdir(parents=True)
    shutil.copy(SHIPPED / "eurusd_1h.parquet", tmp_path / "there" / "bars")
    return f"file://{tmp_path}/there", tmp_path / "there"


def failing(url: str, name: str, moment: str) -> DataStore:
    registry = DataStore(url)
    registry._root._fs = Failing(registry._root._fs, name, moment)
    return registry


def empty_cache(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache")


def ingest(path: Path, *, name: str, data_root: str, jump_mad: float = 30.0) -> None:
    unsaid = ("timezone", "time_format", "epoch_unit", "symbol", "decimal", "thousands")
    options = dict.fromkeys(unsaid) | {"time_column": "", "columns": ""}
    options |= {"where": [], "repair": [], "accept": []}
    command.ingest(path, name, jump_mad=jump_mad, data_root=data_root, as_json=True, **options)


def build(where: str | DataStore) -> DataStore:
    registry = DataStore(where) if isinstance(where, str) else where
    registry.build_set(SET, RECIPE)
    registry.build_split("fwd", SplitRecipe(labeled=SET))
    return registry


def write(remote, path: str, content: bytes) -> None:
    with remote.open_output_stream(path) as stream:
        stream.write(content)


def read(remote, path: str) -> bytes:
    with remote.open_input_stream(path) as stream:
        return stream.read()


def test_what_is_built_here_is_loaded_there(store, tmp_path):
    url, _, _ = store
    first = build(url)
    local = tmp_path / "local"
    (local / "bars").mkdir(parents=True)
    shutil.copy(SHIPPED / "eurusd_1h.parquet", local / "bars")
    same = DataStore(local)
    assert same.build_set(SET, RECIPE).sha256 == first.load_set(SET).sha256
    empty_cache(tmp_path)
    there = DataStore(url)
    assert there.names() == [SET, "splits/fwd"]
    data = there.load_labeled("v1", "fwd")
    assert data.audit_trail["passed"]
    assert data.labeled.sha256 == same.load_set(SET).sha256
    assert there.data_root.is_relative_to(tmp_path / "cache")
    assert data.audit_trail["checks"][-1]["detail"] == "517 labels"


def test_a_set_that_stands_remotely_is_not_built_again(store, tmp_path):
    url, remote, base = store
    build(url)
    before = read(remote, f"{base}/{SET}/manifest.json")
    empty_cache(tmp_path)
    build(url)
    assert read(remote, f"{base}/{SET}/manifest.json") == before
    with pytest.raises(DataError, match="exists with another recipe"):
        DataStore(url).build_set(SET, WindowRecipe(source="eurusd_1h", cross_gaps=True))
    with pytest.raises(DataError, match="exists with another content"):
        DataStore(url).build_split("fwd", SplitRecipe(labeled=SET, val_fraction=0.2))


def test_a_broken_cache_is_mended_from_the_store(store, tmp_path):
    url, _, _ = store
    registry = build(url)
    path = registry.data_root / SET / "y.npy"
    honest = path.read_bytes()
    path.write_bytes(honest[:-8])
    loaded = DataStore(url).load_set(SET)
    assert path.read_bytes() == honest
    assert len(loaded.y) == len(loaded)
    bars = registry.data_root / "bars" / "eurusd_1h.parquet"
    bars.write_bytes(b"PAR1")
    assert len(DataStore(url).load_bars("eurusd_1h")) == 6225


def test_a_changed_file_in_the_store_is_refused(store, tmp_path):
    url, remote, base = store
    build(url)
    content = bytearray(read(remote, f"{base}/{SET}/X_ohlc.npy"))
    content[-3] ^= 1
    write(remote, f"{base}/{SET}/X_ohlc.npy", bytes(content))
    empty_cache(tmp_path)
    with pytest.raises(DataError, match=r"X_ohlc.npy has SHA-256 .* by its manifest"):
        DataStore(url).load_set(SET)


def test_a_changed_split_in_the_store_is_refused(store):
    url, remote, base = store
    build(url)
    text = read(remote, f"{base}/splits/fwd.json").replace(
        b'"embargo_bars": 0', b'"embargo_bars": 1'
    )
    write(remote, f"{base}/splits/fwd.json", text)
    with pytest.raises(AuditError, match="changed since it was made"):
        DataStore(url).load_labeled("v1", "fwd")


def test_a_set_without_its_manifest_does_not_exist(store, tmp_path):
    """The manifest is uploaded last: a broken upload leaves no set and can be repeated."""
    url, remote, base = store
    build(url)
    remote.delete_file(f"{base}/{SET}/manifest.json")
    empty_cache(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        DataStore(url).load_set(SET)
    assert len(DataStore(url).build_set(SET, RECIPE)) > 400
    assert DataStore(url).names()[0] == SET


def test_a_manifest_that_names_files_outside_is_refused(store, tmp_path):
    url, remote, base = store
    build(url)
    text = read(remote, f"{base}/{SET}/manifest.json").replace(b'"y.npy"', b'"../../y.npy"')
    write(remote, f"{base}/{SET}/manifest.json", text)
    empty_cache(tmp_path)
    with pytest.raises(DataError, match="names no files"):
        DataStore(url).load_set(SET)
    assert not list((tmp_path / "cache").rglob("y.npy"))


@pytest.mark.slow  # the S3 client tries again for six seconds
def test_a_store_that_is_not_there_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setenv("MOOLA_CACHE", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    url = "s3://nothing/reg?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    with pytest.raises(DataError, match="cannot be used") as caught:
        DataStore(url).load_set(SET)
    assert "\n" not in str(caught.value)


def test_any_fsspec_file_system_will_do(monkeypatch, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("MOOLA_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.pipe("/moola-data/bars/eurusd_1h.parquet", (SHIPPED / "eurusd_1h.parquet").read_bytes())
    url = "fsspec+memory:///moola-data"
    build(url)
    shutil.rmtree(tmp_path / "cache")
    data = DataStore(url).load_labeled("v1", "fwd")
    assert data.audit_trail["passed"]
    assert np.isfinite(data.X_train).all()


def test_a_file_url_is_a_store_like_any_other(file_store):
    url, there = file_store
    registry = build(url)
    assert (there / SET / "manifest.json").is_file()
    assert registry.load_labeled("v1", "fwd").audit_trail["passed"]
    assert not [p.name for p in there.rglob(".*")]


@pytest.mark.parametrize("name", ["y.npy", "manifest.json"])
def test_a_set_whose_upload_broke_off_is_built_again_and_published(file_store, name):
    url, there = file_store
    with pytest.raises(DataError, match="cannot be used: the line went dead"):
        build(failing(url, name, "write"))
    assert DataStore(url).names() == []
    with pytest.raises(DataError, match="does not exist"):
        DataStore(url).load_set(SET)  # the cache has it, the store has not
    build(DataStore(url))
    assert DataStore(url).names() == [SET, "splits/fwd"]
    assert (there / SET / "manifest.json").is_file()


def test_what_is_removed_there_is_no_longer_used_here(file_store):
    url, there = file_store
    registry = build(url)
    windows = registry.load_set(SET)
    for path in ("bars/eurusd_1h.parquet", "splits/fwd.json", f"{SET}/manifest.json"):
        (there / path).unlink()
    assert "not compared" in registry.lineage(windows)[0].detail
    with pytest.raises(DataError, match="'fwd' does not exist"):
        registry.load_split("fwd")
    with pytest.raises(DataError, match="v1 does not exist"):
        registry.load_set(SET)


@pytest.mark.medium
def test_a_file_that_stands_is_not_overwritten(store, tmp_path):
    url, remote, base = store
    registry = DataStore(url)
    path = registry.data_root / "bars" / "eurusd_1h.parquet"
    path.parent.mkdir(parents=True)
    shutil.copy(SHIPPED / "eurusd_1h.parquet", path)
    registry.publish("bars/eurusd_1h.parquet")
    before = path.read_bytes()
    path.write_bytes(before[::-1])
    with pytest.raises(DataError, match=r"eurusd_1h\.parquet exists with another content"):
        registry.publish("bars/eurusd_1h.parquet")
    assert read(remote, f"{base}/bars/eurusd_1h.parquet") == before
    text = "time,open,high,low,close\n2017-01-01T01:00:00Z,1,1,1,1\n"
    (tmp_path / "other.csv").write_text(text)
    empty_cache(tmp_path)
    with pytest.raises(DataError, match="bar set eurusd_1h exists with another content"):
        ingest(tmp_path / "other.csv", name="eurusd_1h", data_root=url)
    assert read(remote, f"{base}/bars/eurusd_1h.parquet") == before


@pytest.mark.parametrize("moment", ["write", "close"])
@pytest.mark.parametrize("kind", ["file", "object"])
def test_an_upload_that_breaks_off_leaves_nothing_under_its_name(request, kind, moment):
    url = request.getfixturevalue("file_store" if kind == "file" else "store")[0]
    registry = failing(url, "x.json", moment)
    path = registry.data_root / "splits" / "x.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(DataError, match="cannot be used: the line went dead"):
        registry.publish("splits/x.json")
    folder = fs.FileSelector(f"{registry._root._base}/splits", allow_not_found=True)
    assert registry._root._fs.get_file_info(folder) == []


def test_a_report_of_bars_may_be_made_again(file_store, tmp_path):
    url, there = file_store
    text = "time,open,high,low,close\n2017-01-01T01:00:00Z,1,1,1,1\n"
    (tmp_path / "one.csv").write_text(text)
    for jump_mad in (30.0, 20.0):
        ingest(tmp_path / "one.csv", name="one", data_root=url, jump_mad=jump_mad)
        report = json.loads((there / "bars" / "one.quality.json").read_text())
        assert report["jump_mad"] == jump_mad
