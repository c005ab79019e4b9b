"""Models-from-code entry that MLflow copies beside the weights and runs to load the model."""

import json
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from moola.errors import BadInput
from moola.serving.inputs import flag, windows_of
from moola.serving.scoring import WindowScorer


class Refusal(MlflowException):
    """A refused input, told in one line: MLflow would put the input itself before the message."""

    def serialize_as_json(self) -> str:
        """Return the body of the answer, without the windows that were sent."""
        return json.dumps({"error_code": self.error_code, "message": str(self.args[0])})


class MoolaModel(mlflow.pyfunc.PythonModel):
    """Answers OHLC windows with labels, probabilities and the model version."""

    _skip_type_hint_validation = True  # what may be sent is checked in predict

    def load_context(self, context: Any) -> None:
        """Load the weights."""
        self.scorer = WindowScorer.load(Path(context.artifacts["checkpoint"]))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Answer windows in price units, shape (n, T, 4)."""
        try:
            return self.scorer.answer(
                windows_of(model_input),
                calibrated=flag(params or {}, "calibrated", default=True),
                return_set=flag(params or {}, "return_set", default=False),
            )
        except BadInput as error:
            raise Refusal(str(error), INVALID_PARAMETER_VALUE) from None


mlflow.models.set_model(MoolaModel())
