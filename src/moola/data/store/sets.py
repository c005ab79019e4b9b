"""One version of windows: read from disk, believed only as far as its digests go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moola.config.data import WindowRecipe
from moola.data.audit.trail import CorpusClaim
from moola.data.labels import class_names
from moola.data.left_out import LeftOut
from moola.data.windows import WindowTimes
from moola.errors import AuditError, DataError, one_line
from moola.hashing import sha256_file, sha256_json

_AGAIN = "Remove the set and run `moola data build` again"
_META_COUNTS = {"T": 2, "D_ohlc": 4, "D_feats": 0, "K": 0, "num_windows": 1}
_CLOCK = ("first_bar", "last_bar", "label_end")


@dataclass(frozen=True, kw_only=True)
class WindowSet:
    """One version of windows, as loaded and checked.

    Attributes
    ----------
    name
        For example ``labeled_windows/v1``.
    X_ohlc
        Windows in price units, shape (n, T, 4), float32, memory-mapped read-only.
    X_feats20
        Features, shape (n, 20), float32; None for an unlabelled set.
    y
        Labels, shape (n,), int64; None for an unlabelled set.
    times
        Bars of each window, as rows of the source.
    clock
        UTC time of each window's first bar, last bar and label end, shape (n, 3), datetime64[us].
    meta, manifest
        The set's JSON files.
    sha256
        Digest over the names and digests of the set's content files.
    """

    name: str
    X_ohlc: NDArray[np.float32]
    X_feats20: NDArray[np.float32] | None
    y: NDArray[np.int64] | None
    times: WindowTimes
    clock: NDArray[np.datetime64]
    meta: Mapping[str, Any]
    manifest: Mapping[str, Any]
    sha256: str

    def __len__(self) -> int:
        return len(self.X_ohlc)

    @property
    def source(self) -> str:
        """Name of the bar set the windows were cut from."""
        return str(self.meta["source"])

    @property
    def num_classes(self) -> int:
        """Number of label classes, K."""
        return int(self.meta["K"])

    @property
    def recipe(self) -> WindowRecipe:
        """The recipe the set was built by."""
        return WindowRecipe.from_mapping(self.manifest["recipe"])

    @property
    def left_out(self) -> LeftOut | None:
        """How many windows the recipe left out; None for a set built before that was counted."""
        stated = self.manifest.get("left_out")
        return LeftOut.from_dict(stated) if isinstance(stated, dict) else None

    def claim(self) -> CorpusClaim:
        """State which bars the set covers, for the audit of whatever is trained on it."""
        return CorpusClaim(
            name=self.name,
            sha256=self.sha256,
            source=self.source,
            source_sha256=str(self.meta["source_sha256"]),
            first_bar=str(self.clock[:, 0].min()),
            last_bar=str(self.clock[:, 2].max()),
        )


def read_set(name: str, folder: Path) -> WindowSet:
    """Read one set and check every file against its manifest.

    Parameters
    ----------
    name
        What the set is called, for messages and to be compared with its manifest.
    folder
        Where it is stored.

    Returns
    -------
    WindowSet
        Its windows memory-mapped; features are finite.

    Raises
    ------
    DataError
        If a file is absent or malformed, or the files do not fit together.
    AuditError
        If a digest differs from the manifest, or a file is a link.
    """
    meta, manifest = (read_json(folder / f) for f in ("meta.json", "manifest.json"))
    check_meta(name, meta)
    labelled = meta["K"] > 0
    needed = ["X_ohlc.npy", "meta.json", "times.parquet"]
    check_digests(name, folder, manifest, needed + ["X_feats20.npy", "y.npy"] * labelled)
    _check_recipe(name, meta, manifest)
    n, T = meta["num_windows"], meta["T"]
    X = load_array(name, folder, "X_ohlc.npy", np.float32, (n, T, 4))
    feats, y = None, None
    if labelled:
        feats = load_array(name, folder, "X_feats20.npy", np.float32, (n, meta["D_feats"]))
        y = np.array(load_array(name, folder, "y.npy", np.int64, (n,)))
        _check_labels(name, meta, y, WindowRecipe.from_mapping(manifest["recipe"]))
        if not np.isfinite(feats).all():
            _unfit(
                name, f"window {np.argwhere(~np.isfinite(feats))[0][0]} has a feature that is NaN"
            )
    times, clock = read_times(name, folder / "times.parquet", n)
    return WindowSet(
        name=name, X_ohlc=X, X_feats20=feats, y=y, times=times, clock=clock,
        meta=meta, manifest=manifest, sha256=str(manifest["sha256"]),
    )  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises DataError if it is absent, not JSON, NaN or something else."""
    try:
        values = json.loads(path.read_text(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", remedy=_AGAIN) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy=_AGAIN) from None
    if not isinstance(values, dict):
        raise DataError(f"{path} holds {type(values).__name__}", limit="an object", remedy=_AGAIN)
    return values


def check_meta(name: str, meta: Mapping[str, Any]) -> None:
    """Raise DataError unless the counts and names of ``meta.json`` are what they should be."""
    for key, low in _META_COUNTS.items():
        value = meta.get(key)
        if type(value) is not int or value < low:
            _unfit(name, f"meta.json has {key} = {value!r}", f"a whole number of at least {low}")
    if meta["D_ohlc"] != 4:
        _unfit(name, f"meta.json has D_ohlc = {meta['D_ohlc']}", "4: open, high, low, close")
    if meta["K"] == 1:
        _unfit(name, "meta.json has K = 1", "0 (unlabelled) or at least 2 classes")
    for key in ("source", "source_sha256"):
        if not isinstance(meta.get(key), str) or not meta[key]:
            _unfit(name, f"meta.json has {key} = {meta.get(key)!r}", "a text")


def check_digests(name: str, folder: Path, manifest: Mapping[str, Any], needed: list[str]) -> None:
    """Raise AuditError unless the manifest names every needed file and every digest is right."""
    if manifest.get("name") != name:
        raise AuditError(
            f"set {name} holds the manifest of {manifest.get('name')!r}",
            remedy="One set has one name: remove the copy",
        )
    stated = manifest.get("files")
    if not isinstance(stated, dict) or manifest.get("sha256") != sha256_json(stated):
        raise AuditError(f"manifest of set {name} does not match its own digest", remedy=_AGAIN)
    foreign = [f for f in stated if "/" in f or "\\" in f or f.startswith(".")]
    if foreign:
        raise AuditError(f"manifest of set {name} names {foreign[0]!r}", limit="bare file names")
    missing = sorted(set(needed) - set(stated))
    if missing:
        raise AuditError(f"manifest of set {name} does not vouch for {', '.join(missing)}")
    for file, digest in sorted(stated.items()):
        path = folder / file
        if path.is_symlink():
            raise AuditError(f"set {name}: {file} is a symbolic link", limit="a regular file")
        if not path.is_file():
            raise AuditError(f"set {name}: {file} is missing", remedy=_AGAIN)
        actual = sha256_file(path)
        if actual != digest:
            raise AuditError(
                f"set {name}: {file} changed since it was built, SHA-256 is {actual[:12]}",
                limit=str(digest)[:12],
                remedy=_AGAIN,
            )


def load_array(
    name: str, folder: Path, file: str, dtype: type, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Map an array read-only; raises DataError unless type and shape are the ones expected."""
    try:
        array = np.load(folder / file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        _unfit(name, f"{file} cannot be read: {error}")
    if array.shape != shape:
        _unfit(name, f"{file} has shape {array.shape}", f"{shape} by meta.json")
    if array.dtype != dtype:
        _unfit(name, f"{file} holds {array.dtype}", np.dtype(dtype).name)
    return np.asarray(array)


def read_times(name: str, path: Path, n: int) -> tuple[WindowTimes, NDArray[np.datetime64]]:
    """Read rows and times of every window; raises DataError where they contradict themselves."""
    columns: dict[str, NDArray[Any]] = {}
    try:
        table = pq.read_table(path, columns=["first_row", "last_row", "label_end_row", *_CLOCK])
        for key in table.column_names:
            kind = pa.timestamp("us") if key in _CLOCK else pa.int64()
            columns[key] = table[key].cast(kind).to_numpy()
    except (OSError, KeyError, pa.ArrowException) as error:
        _unfit(name, f"times.parquet cannot be read: {one_line(error)}")
    if table.num_columns != 6 or len(table) != n:
        _unfit(name, f"times.parquet has {len(table)} rows", f"{n}, six columns each")
    if any(table[c].null_count for c in table.column_names):
        _unfit(name, "times.parquet has empty values")
    times = WindowTimes(**{c: columns[f"{c}_row"] for c in ("first", "last", "label_end")})
    clock = np.column_stack([columns[c] for c in _CLOCK])
    rising = (np.diff(times.first) > 0).all() and (np.diff(clock[:, 0].astype(np.int64)) > 0).all()
    inside = (times.first < times.last).all() and (times.last <= times.label_end).all()
    if not (rising and inside and (clock[:, 0] < clock[:, 1]).all() and times.first[0] >= 0):
        _unfit(name, "times.parquet is not in time order", "windows that ascend, ends after starts")
    return times, clock


def _check_recipe(name: str, meta: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    recipe, sources = manifest.get("recipe"), manifest.get("sources")
    if not isinstance(recipe, dict) or not isinstance(sources, dict):
        _unfit(name, "manifest.json lacks recipe or sources", "two objects")
    parsed = WindowRecipe.from_mapping(recipe)
    facts = {
        "T": parsed.window_bars,
        "K": parsed.num_classes,
        "source": parsed.source,
        "source_sha256": sources.get(parsed.source),
    }
    for key, value in facts.items():
        if meta[key] != value:
            _unfit(name, f"meta.json has {key} = {meta[key]!r}", f"{value!r} by its recipe")


def _check_labels(
    name: str, meta: Mapping[str, Any], y: NDArray[np.int64], recipe: WindowRecipe
) -> None:
    K, stated = meta["K"], meta.get("class_distribution")
    outside = np.flatnonzero((y < 0) | (y >= K))
    if len(outside):
        _unfit(name, f"window {outside[0]} has label {y[outside[0]]}", f"0 to {K - 1} by meta.json")
    tally = dict(zip(class_names(recipe), np.bincount(y, minlength=K).tolist(), strict=True))
    if stated != tally:
        _unfit(name, f"meta.json has class_distribution {stated!r}", f"the counts {tally!r}")


def _unfit(name: str, problem: str, limit: str | None = None) -> NoReturn:
    raise DataError(f"set {name}: {problem}", limit=limit, remedy=_AGAIN)


def _refuse_constant(value: str) -> NoReturn:
    raise ValueError(f"it holds {value}")
