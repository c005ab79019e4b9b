"""Score the windows of a file with a registered version; memory does not grow with the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import get_model_name_and_version
from numpy.typing import NDArray

from moola.config.base import check_count
from moola.config.promotion import TRUSTED_FOLDER
from moola.data.store.data_store import DataStore
from moola.data.windows import check_windows
from moola.errors import BadInput, DataError, MoolaError, PromotionRefused, one_line
from moola.hashing import atomic_file
from moola.judging.progress import Progress, silent
from moola.models.device import resolve_device
from moola.promotion.evidence.attestation import Evidence, load_evidence, verify
from moola.promotion.evidence.keys import load_trusted_keys
from moola.promotion.versions.classes import require_judged_classes
from moola.promotion.versions.fetched import fetched, fetched_from
from moola.promotion.versions.inspection import inspect
from moola.serving.pyfunc import checkpoint_of
from moola.serving.scoring import UNREGISTERED, WindowScorer
from moola.steps.window_files import WindowChunk, holds_bars, read_windows
from moola.tracking.store import connect


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What was written: number of windows, version and file, and what was left out.

    `left_out` counts windows that span a gap; `cross_gaps` is what was done about these, and `why`
    says who decided it.
    """

    num_windows: int
    version: str
    path: Path
    left_out: int = 0
    cross_gaps: bool = False
    why: str = ""


def predict(
    file: Path,
    *,
    output: Path,
    model_uri: str,
    step: int = 1,
    cross_gaps: bool | None = None,
    data_root: Path | str = "data",
    device: str = "auto",
    progress: Progress = silent,
) -> Predicted:
    """Score windows in price units and write label, probabilities and version as parquet.

    Parameters
    ----------
    file
        See `moola.steps.window_files.read_windows`.
    output
        The parquet file; it appears when all is written.
    model_uri
        For example ``models:/EnhancedSimpleLSTM@production``.
    step
        Bars between the starts of two windows; bars only.
    cross_gaps
        Whether a window may span a gap in the time line; bars only. None: as the recipe of the set
        says that the version was trained on, where that is in the registry, else not.
    data_root
        Root of the data store.
    device
        ``auto``, ``cpu`` or ``cuda``.
    progress
        Told how far it is.

    Returns
    -------
    Predicted
        How many windows were scored, by which version, how many were left out, and the file.

    Raises
    ------
    BadInput
        If the model cannot be read, or windows or bars cannot be used.
    """
    check_count("step", step)
    scorer = load_scorer(model_uri, device=resolve_device(device))
    crosses, why = _crosses_gaps(file, cross_gaps, scorer, data_root)
    num_windows = left_out = 0
    writer: pq.ParquetWriter | None = None
    with atomic_file(output) as temporary:
        try:
            for chunk in read_windows(
                file, window_bars=scorer.window_bars, step=step, cross_gaps=crosses
            ):
                left_out += chunk.left_out
                if len(chunk.X) == 0:
                    continue
                logits = scorer.logits(_checked(file, chunk, scorer.window_bars))
                table = pa.table({**chunk.where, **scorer.columns(scorer.scores(logits))})
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table)
                num_windows += len(table)
                progress("scoring", chunk.done, chunk.total, f"{num_windows:,} windows")
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise DataError(
                f"{file} holds no window of {scorer.window_bars} bars",
                remedy="Give more bars, or allow windows across gaps with --cross-gaps",
            )
    return Predicted(
        num_windows=num_windows, version=scorer.version, path=output,
        left_out=left_out, cross_gaps=crosses, why=why,
    )  # fmt: skip


def _crosses_gaps(
    file: Path, asked: bool | None, scorer: WindowScorer, data_root: Path | str
) -> tuple[bool, str]:
    """Return whether windows of bars may span gaps, and who says so."""
    if asked is not None:
        return asked, "as asked"
    if scorer.labeled is None or not holds_bars(file):
        return False, ""
    try:
        recipe = DataStore(data_root).load_set(scorer.labeled).recipe
    except MoolaError:
        return False, f"{scorer.labeled} is not in {data_root}, so its recipe is not known"
    return recipe.cross_gaps, f"as the recipe of {scorer.labeled} says"


def _checked(file: Path, chunk: WindowChunk, window_bars: int) -> NDArray[np.float32]:
    numbers = chunk.where.get("window")
    first = 0 if numbers is None else int(numbers[0])
    try:
        return check_windows(np.asarray(chunk.X), window_bars=window_bars, first=first)
    except BadInput as error:
        problem = f"{file}: {error.problem}"
        raise DataError(problem, limit=error.limit, remedy=error.remedy) from None


def load_scorer(model_uri: str, *, device: str = "cpu") -> WindowScorer:
    """Read a logged or registered model as the scorer that every way of serving uses.

    Parameters
    ----------
    model_uri
        For example ``models:/EnhancedSimpleLSTM@production``.
    device
        ``cpu`` or ``cuda``.

    Returns
    -------
    WindowScorer
        The classifier with its calibration.

    Raises
    ------
    BadInput
        If MLflow cannot find it.
    PromotionRefused
        If it is not exactly Moola's packaging, does not answer, or its classes are not those that
        its signed evidence is about.
    """
    client = connect()
    registered = _registered(client, model_uri)
    if registered is None:
        with fetched_from(model_uri, model_uri) as folder:
            inspect(folder)
            return WindowScorer.load(checkpoint_of(folder), device=device, version=UNREGISTERED)
    name, version = registered
    with fetched(client, name, version) as folder:
        inspection = inspect(folder)
        if evidence := _signed(client, name, version):
            classes = inspection.class_names
            require_judged_classes(classes, evidence.data, data_root=Path("data"))
        return WindowScorer.load(checkpoint_of(folder), device=device, version=version)


def _registered(client: MlflowClient, model_uri: str) -> tuple[str, str] | None:
    """Return name and number of the registered version an address stands for, if it does."""
    words = model_uri.removeprefix("models:/")
    if words == model_uri or not {"/", "@"} & set(words):  # a folder, or the id of a logged model
        return None
    try:
        name, version = get_model_name_and_version(client, model_uri)
        return str(name), str(client.get_model_version(name, version).version)
    except (MlflowException, ValueError) as error:
        raise BadInput(f"{model_uri} cannot be read: {one_line(error)}") from None


def _signed(client: MlflowClient, name: str, version: str) -> Evidence | None:
    """Return a version's evidence, if a key that is trusted here signed any about it."""
    try:
        signed = load_evidence(client, name, version)
        evidence = verify(signed, load_trusted_keys(Path(TRUSTED_FOLDER)))
    except PromotionRefused:
        return None
    return evidence if (evidence.name, evidence.version) == (name, version) else None
