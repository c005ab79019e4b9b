"""Score windows from a file with a registered version."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException

from moola.errors import BadInput, DataError
from moola.hashing import atomic_file
from moola.tracking.store import connect, first_line


def predict(windows: Path, *, output: Path, model_uri: str) -> tuple[int, Path]:
    """Score OHLC windows in price units and write label, probabilities and version as parquet.

    Parameters
    ----------
    windows
        ``.npy`` file, shape (n, T, 4).
    model_uri
        For example ``models:/EnhancedSimpleLSTM@production``.

    Returns
    -------
    Number of windows and the file written.
    """
    try:
        X = np.load(windows, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"windows file {windows} cannot be read: {error}", limit="a .npy file (n, T, 4)"
        ) from None
    connect()
    try:
        model = mlflow.pyfunc.load_model(model_uri)
        answer = model.predict(np.asarray(X, dtype=np.float32))
    except MlflowException as error:
        raise BadInput(f"{model_uri} cannot answer: {first_line(error)}") from None
    with atomic_file(output) as temporary:
        answer.to_parquet(temporary, index=False)
    return len(answer), output
