"""Taking the champion away, or changing its history, its files and its run."""

from __future__ import annotations

from collections.abc import Callable

from guard_world import Attack, World
from promotion_kit import NAME

ATTACKS: dict[str, Attack] = {}
# What the refusal has to say, where an attack could be refused for another reason as well.
SAYS = {
    "parameter on the run": "it is frozen",
    "data set on the run": "it is frozen",
    "model output on the run": "it is frozen",
    "rename": "versions in Production's history",
    "delete the model": "versions in Production's history",
    "delete the version": "has held Production",
    "delete the version spelled 01": "has held Production",
    "champion spelled 01 to Archived": "holds Production",
    "delete the alias": "can be moved, not deleted",
    "tag on the run": "it is frozen",
    "batch on the run": "it is frozen",
    "upload-artifact": "they are frozen",
    "log_artifact by client": "they are frozen",
    "PUT file by api": "they are frozen",
    "DELETE file by ajax-api": "they are frozen",
    "DELETE run folder": "they are frozen",
    "DELETE experiment folder": "they are frozen",
}


_MODEL = {"name": NAME}
_ONE = {"name": NAME, "version": "1"}
for _stage in ("Archived", "None", "Staging"):
    ATTACKS[f"champion to {_stage}"] = lambda w, s=_stage: w.stage("1", s)
ATTACKS |= {
    "champion spelled 01 to Archived": lambda w: w.stage("01", "Archived"),
    "rename": lambda w: w.post("registered-models/rename", {**_MODEL, "new_name": "Else"}),
    "rename by client": lambda w: w.by_client(lambda c: c.rename_registered_model(NAME, "Else")),
    "delete the model": lambda w: w.post("registered-models/delete", _MODEL, method="DELETE"),
    "delete and recreate": lambda w: w.by_client(lambda c: c.delete_registered_model(NAME)),
    "delete the version": lambda w: w.post("model-versions/delete", _ONE, method="DELETE"),
    "delete the version spelled 01": lambda w: w.post(
        "model-versions/delete", {"name": NAME, "version": "01"}, method="DELETE"
    ),
    "delete the alias": lambda w: w.post(
        "registered-models/alias", {"name": NAME, "alias": "production"}, method="DELETE"
    ),
    "rename another model onto it": lambda w: w.post(
        "registered-models/rename", {"name": "Other", "new_name": NAME}
    ),
}


def spelled(name: str, spell: Callable[[World], str]) -> None:
    for prefix in ("api", "ajax-api"):
        for method in ("PUT", "DELETE"):
            ATTACKS[f"{method} {name} by {prefix}"] = lambda w, p=prefix, m=method: w.put(
                spell(w), prefix=p, method=m
            )


spelled("file", lambda w: w.file)
spelled("file with %2f", lambda w: w.file.replace("/", "%2f"))
spelled("file with %252f", lambda w: w.file.replace("/", "%252f"))
spelled("file with //", lambda w: w.file.replace("/", "//"))
spelled("file with /./", lambda w: w.file.replace("/", "/./"))
spelled("file with ..", lambda w: f"{w.experiment_id}/x/../{w.run_id}/artifacts/model/MLmodel")
spelled("file with %2e%2e", lambda w: f"{w.experiment_id}/x/%2e%2e/{w.run_id}/artifacts/model/x")
spelled("a new file beside it", lambda w: f"{w.root}/model/code/sitecustomize.py")
for _name, _spell in {
    "run folder": lambda w: w.root,
    "experiment folder": lambda w: w.experiment_id,
    "everything": lambda w: ".",
}.items():
    ATTACKS[f"DELETE {_name}"] = lambda w, s=_spell: w.put(s(w), method="DELETE")

ATTACKS |= {
    "upload-artifact": lambda w: w.server.send(
        "POST",
        f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={w.run_id}&path=model/weights.safetensors",
        b"evil",
    ),
    "log_artifact by client": lambda w: w.by_client(
        lambda c: c.log_text(w.run_id, "evil", "model/weights.safetensors")
    ),
    "multipart create": lambda w: w.server.send(
        "POST",
        f"/api/2.0/mlflow-artifacts/mpu/create/{w.root}/model",
        {"path": "weights.safetensors", "num_parts": 1},
    ),
    "multipart complete": lambda w: w.server.send(
        "POST",
        f"/api/2.0/mlflow-artifacts/mpu/complete/{w.root}/model",
        {"path": "weights.safetensors", "upload_id": "1", "parts": [{"part_number": 1}]},
    ),
    "delete the run": lambda w: w.post("runs/delete", {"run_id": w.run_id}),
    "delete the experiment": lambda w: w.post(
        "experiments/delete", {"experiment_id": w.experiment_id}
    ),
    "tag on the run": lambda w: w.post(
        "runs/set-tag", {"run_id": w.run_id, "key": "mlflow.note.content", "value": "evil"}
    ),
    "metric on the run": lambda w: w.post(
        "runs/log-metric", {"run_id": w.run_id, "key": "log_loss", "value": 0, "timestamp": 1}
    ),
    "batch on the run": lambda w: w.post(
        "runs/log-batch",
        {"run_id": w.run_id, "metrics": [{"key": "log_loss", "value": 0, "timestamp": 1}]},
    ),
    "metric on the run by its old name": lambda w: w.post(
        "runs/log-metric", {"run_uuid": w.run_id, "key": "log_loss", "value": 0, "timestamp": 1}
    ),
    "parameter on the run": lambda w: w.post(
        "runs/log-parameter", {"run_id": w.run_id, "key": "split", "value": "none"}
    ),
    "data set on the run": lambda w: w.post(
        "runs/log-inputs",
        {
            "run_id": w.run_id,
            "datasets": [
                {"dataset": {"name": "d", "digest": "0", "source_type": "x", "source": "y"}}
            ],
        },
    ),
    "model output on the run": lambda w: w.post(
        "runs/outputs", {"run_id": w.run_id, "models": [{"model_id": "m-1", "step": 0}]}
    ),
    "tag taken off the run": lambda w: w.post(
        "runs/delete-tag", {"run_id": w.run_id, "key": "mlflow.runName"}
    ),
    "reopen the run": lambda w: w.post("runs/update", {"run_id": w.run_id, "status": "RUNNING"}),
}
