"""Models-from-code entry that MLflow copies beside the weights and runs to load the model."""

from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from moola.errors import BadInput
from moola.serving.scoring import MAX_WINDOWS, WindowScorer


class MoolaModel(mlflow.pyfunc.PythonModel):
    """Answers OHLC windows with labels, probabilities and the model version."""

    _skip_type_hint_validation = True  # the signature states the schema already

    def load_context(self, context: Any) -> None:
        """Load the weights."""
        self.scorer = WindowScorer.load(Path(context.artifacts["checkpoint"]))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Answer windows in price units, shape (n, T, 4)."""
        try:
            if len(model_input) > MAX_WINDOWS:
                raise BadInput(
                    f"the batch holds {len(model_input)} windows", limit=f"{MAX_WINDOWS}"
                )
            calibrated = bool((params or {}).get("calibrated", True))
            return self.scorer.answer(model_input, calibrated=calibrated)
        except BadInput as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from None


mlflow.models.set_model(MoolaModel())
