"""What MLflow, its HTTP client and its database raise becomes one line and the right exit code."""

from __future__ import annotations

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes

from moola.errors import DataError, MoolaError, PromotionRefused, TrackingError
from moola.promotion.calls import mlflow_call


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (
            MlflowException("not yours\n  at all", codes.PERMISSION_DENIED),
            PromotionRefused,
            "the server refused version 3: not yours at all.",
        ),
        (
            MlflowException("no row", codes.RESOURCE_DOES_NOT_EXIST),
            PromotionRefused,
            "version 3 does not exist: no row.",
        ),
        (
            MlflowException("API request to x failed", codes.RESOURCE_DOES_NOT_EXIST),
            TrackingError,
            "cannot get version 3: API request to x failed.",
        ),
        (requests.ConnectionError("gone\naway"), TrackingError, "cannot get version 3: gone away."),
        (OSError("disk"), TrackingError, "cannot get version 3: disk."),
        (DataError("a set lacks a file"), DataError, "a set lacks a file."),
    ],
)
def test_each_failure_is_one_line(raised: Exception, kind: type[MoolaError], said: str) -> None:
    with pytest.raises(kind) as caught, mlflow_call("version 3"):
        raise raised
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", [codes.PERMISSION_DENIED, codes.UNAUTHENTICATED])
def test_who_may_not_read_was_not_refused_by_the_gates(code: int) -> None:
    with pytest.raises(TrackingError, match="may not read it: no"), mlflow_call("it", reads=True):
        raise MlflowException("no", code)


def test_a_long_answer_is_cut() -> None:
    with pytest.raises(TrackingError) as caught, mlflow_call("it"):
        raise OSError("x" * 401)
    assert f"cannot get it: {'x' * 400} [...]." in str(caught.value)
    with pytest.raises(TrackingError) as caught, mlflow_call("it"):
        raise OSError("x" * 400)
    assert "x." in str(caught.value)
    assert "[...]" not in str(caught.value)
