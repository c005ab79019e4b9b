"""Images and tables as files that MLflow's web page shows side by side.

`MlflowClient.log_image` and `log_table` write the same, but they name files at random and append to
tables, so that repeating a call would double its result.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mlflow.tracking.multimedia import compress_image_size, convert_to_pil_image
from numpy.typing import NDArray

IMAGE_TAGS = {"mlflow.loggedImages": "True"}


def image_files(
    key: str, pixels: NDArray[np.uint8], *, step: int, time_ms: int
) -> dict[str, bytes]:
    """Return an image, shape (h, w, 3), and its thumbnail, by artifact path."""
    picture = convert_to_pil_image(pixels)
    stem = f"images/{key}+step+{step}+timestamp+{time_ms}+{uuid.uuid4()}"
    return {
        f"{stem}.png": _encoded(picture, "PNG"),
        f"{stem}+compressed.webp": _encoded(compress_image_size(picture), "WEBP"),
    }


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return an image, shape (h, w, 3), as PNG."""
    return _encoded(convert_to_pil_image(pixels), "PNG")


def table_file(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows with the same columns as the JSON that the page's table view reads."""
    columns = list(rows[0]) if rows else []
    data = [[row.get(column) for column in columns] for row in rows]
    return json.dumps({"columns": columns, "data": data}).encode()


def table_tags(paths: Sequence[str]) -> dict[str, str]:
    """Return the tag that tells the page which artifacts are tables."""
    return {"mlflow.loggedArtifacts": json.dumps([{"path": p, "type": "table"} for p in paths])}


def _encoded(picture: Any, form: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()
