"""Names that MLflow, the disk and the page must agree on; spelled out here and nowhere else."""

from __future__ import annotations

DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"
ARTIFACT_ROOT = "mlartifacts"

EXPERIMENT_PRETRAIN = "moola-pretrain"
EXPERIMENT_FINETUNE = "moola-finetune"
EXPERIMENT_GATES = "moola-gates"
EXPERIMENT_PROMOTION = "moola-promotion"
EXPERIMENT_MONITORING = "moola-monitoring"
EXPERIMENTS = (
    EXPERIMENT_PRETRAIN,
    EXPERIMENT_FINETUNE,
    EXPERIMENT_GATES,
    EXPERIMENT_PROMOTION,
    EXPERIMENT_MONITORING,
)
STEP_OF_COMMAND = {  # TAG_STEP of the run that a command opens
    "pretrain-bilstm": "pretrain",
    "pretrain-ts2vec": "pretrain",
    "pretrain-multitask": "pretrain",
    "train": "finetune",
    "ablate": "ablate",
    "sweep": "sweep",
    "evaluate": "evaluate",
    "investigate": "investigate",
    "promote": "promote",
    "drift": "drift",
}
STEPS = tuple(dict.fromkeys(STEP_OF_COMMAND.values()))

REGISTERED_MODEL = "EnhancedSimpleLSTM"
ALIAS_PRODUCTION = "production"
ALIAS_CHALLENGER = "challenger"
STAGE_PRODUCTION = "Production"
STAGE_STAGING = "Staging"
STAGE_ARCHIVED = "Archived"

TAG_GATE = "moola.gate"
TAG_GATE_OF_VERSION = "moola.gate.{gate}"
TAG_VERDICT = "moola.verdict"
TAG_REASON = "moola.reason"
TAG_CANDIDATE = "moola.candidate"
TAG_EXPERIMENT = "moola.experiment"
TAG_STEP = "moola.step"
TAG_RUN_KEY = "moola.run_key"
TAG_PROOF = "moola.proof.{proof}"
TAG_SETS = "moola.data.sets"
TAG_SPLITS = "moola.data.splits"
TAG_GIT_DIRTY = "moola.git.dirty"
TAG_MODEL_DIGEST = "moola.model.sha256"
TAG_SHA256 = "moola.sha256"
TAG_GATES_RUN = "moola.gates.run_id"
TAG_CHARS = 5000  # MLflow's limit

# MLflow's own
TAG_SEARCHED = "moola.searched"
TAG_NOTE = "mlflow.note.content"
TAG_PARENT = "mlflow.parentRunId"
TAG_GIT_COMMIT = "mlflow.source.git.commit"
TAG_GIT_BRANCH = "mlflow.source.git.branch"

ARTIFACT_ENVIRONMENT = "environment.json"
ARTIFACT_DIFF = "git/uncommitted.diff"
ARTIFACT_TRACEBACK = "traceback.txt"
ARTIFACT_AUDIT = "audit/audit_trail.json"
ARTIFACT_SPLIT = "split/indices.json"
ARTIFACT_LOAD_REPORT = "pretrained/load_report.json"
ARTIFACT_STARTED_FROM = "pretrained/encoder"
ARTIFACT_FREEZE_SCHEDULE = "freeze/schedule.json"
ARTIFACT_WEIGHT_EVOLUTION = "freeze/weight_evolution.parquet"
ARTIFACT_WEIGHT_PICTURE = "freeze/weight_evolution.png"
ARTIFACT_TRAINING = "trainings/{trainee}/{fold}-s{seed}.json"
ARTIFACT_TRAININGS_TABLE = "trainings.json"
ARTIFACT_MASKED_ERROR = "quality/masked_error.json"
ARTIFACT_ENCODER = "encoder/{file}"
ARTIFACT_PLOT = "plots/{plot}.png"
ARTIFACT_RELIABILITY = "calibration/reliability.png"
ARTIFACT_RELIABILITY_BEFORE = "calibration/reliability_before.png"
ARTIFACT_BINS = "calibration/bins.json"
ARTIFACT_CONFUSION = "confusion.png"
ARTIFACT_PREDICTIONS = "predictions/{part}.parquet"
ARTIFACT_GATE_REPORT = "gate_report.json"
ARTIFACT_REPORT_PAGE = "report.html"
ARTIFACT_MANIFEST = "manifest.json"
ARTIFACT_INVESTIGATION = "investigation.md"
ARTIFACT_DISAGREEMENT = "investigation/window-{window}.png"
ARTIFACT_GATES_TABLE = "gates.json"
ARTIFACT_ABLATION_TABLE = "ablation.json"
ARTIFACT_SWEEP_TABLE = "sweep.json"
ARTIFACT_ABLATION_PLOT = "ablation.png"
ARTIFACT_ABLATION_REPORT = "ablation_report.json"
ARTIFACT_DECISION = "decision.md"
ARTIFACT_DRIFT = "drift.json"
IMAGE_RELIABILITY = "reliability"
IMAGE_CONFUSION = "confusion"
IMAGE_ABLATION = "ablation"
IMAGE_WEIGHTS = "weight_evolution"
MODEL_NAME = "model"

# Metrics on val of two answers without a model: the class prior, and one class for all windows.
YARDSTICKS = ("log_loss_prior", "accuracy_constant")

DEFAULT_ENCODER = "artifacts/pretrained/bilstm_encoder"
DEFAULT_TS2VEC = "artifacts/ts2vec/encoder_v1"
DEFAULT_MULTITASK = "artifacts/pretrained/multitask_encoder"
DEFAULT_LABELED = "labeled_windows/v1"
DEFAULT_UNLABELED = "unlabeled_windows/v1"
DEFAULT_SPLIT = "splits/fwd_chain_v3.json"

EVALUATION_FOLDER = "artifacts/evaluation"
RESUME_FOLDER = "artifacts/resume"
