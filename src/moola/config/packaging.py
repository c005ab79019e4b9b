"""What a version consists of: the files Moola writes around weights, and nothing else."""

from __future__ import annotations

CHECKPOINT = "checkpoint"
CHECKPOINT_FOLDER = f"artifacts/{CHECKPOINT}"
MODEL_CODE = "model_code.py"
REQUIREMENTS = ("moola-ml", "torch", "mlflow", "numpy", "pandas", "scikit-learn", "safetensors")
FORMER_NAME = "moola"  # what versions ask for that were made before the distribution was moola-ml

# SHA-256 of serving/model_code.py, which MLflow runs, by the release of Moola that wrote it. Who
# changes that file adds a row and keeps the others: versions in Production hold the older ones.
MODEL_CODE_RELEASES = {
    "bcfdaf9907b84f9c2fb3a1334f15e672cf846d47455fe0d775c30bd12a6c8775": "0.1.0",
}

# Largest sizes in bytes. An honest file is a few kB; only weights are more.
TEXT_FILES = {
    "MLmodel": 64 << 10,
    "conda.yaml": 16 << 10,
    "python_env.yaml": 16 << 10,
    "requirements.txt": 16 << 10,
    MODEL_CODE: 64 << 10,
}
CHECKPOINT_FILES = {"config.json": 256 << 10, "model.safetensors": 256 << 20}
FILES = {**TEXT_FILES, **{f"{CHECKPOINT_FOLDER}/{name}": n for name, n in CHECKPOINT_FILES.items()}}
FOLDERS = ("artifacts", CHECKPOINT_FOLDER)
# What MLflow and Python write when a model is looked up or loaded in place: may be there.
LOOKED_UP = "registered_model_meta"
CACHE = "__pycache__"
OPTIONAL_FILE_BYTES = 64 << 10
MOST_CACHED = 16
SIGNATURE_PARAMS = (
    {"name": "calibrated", "default": True, "shape": None, "type": "boolean"},
    {"name": "return_set", "default": False, "shape": None, "type": "boolean"},
)


def signature_outputs(class_names: tuple[str, ...]) -> list[dict[str, object]]:
    """Return the columns of an answer as MLflow's signature writes them."""
    probabilities = (("double", f"probability_{name}") for name in class_names)
    columns = [("long", "label"), ("string", "label_name"), *probabilities]
    return [
        *({"type": kind, "name": name, "required": True} for kind, name in columns),
        {"type": "array", "items": {"type": "string"}, "name": "label_set", "required": False},
        {"type": "string", "name": "model_version", "required": True},
    ]


def input_words(window_bars: int) -> str:
    """Return what a version states about its input."""
    return f"OHLC windows in price units, float32, shape (n, {window_bars}, 4)"
