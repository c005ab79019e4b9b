"""The same thing by another name: spellings of ids, addresses of places, tags that MLflow reads."""

from __future__ import annotations

import json

from guard_world import Answer, Attack, World
from promotion_kit import NAME

ATTACKS: dict[str, Attack] = {}
# What the refusal has to say, where an attack could be refused for another reason as well.
SAYS: dict[str, str] = {}

DIGITS = "0123456789"
FULL_WIDTH = str.maketrans(DIGITS, "".join(chr(0xFF10 + digit) for digit in range(10)))
ARABIC = str.maketrans(DIGITS, "".join(chr(0x0660 + digit) for digit in range(10)))
SPELLINGS = {
    "with a zero": lambda t: f"0{t}",
    "with a space": lambda t: f" {t}",
    "with a plus": lambda t: f"+{t}",
    "with a hard space": lambda t: f"{t}\u00a0",
    "with a line": lambda t: f"{t}\n",
    "in full width": lambda t: t.translate(FULL_WIDTH),
    "in Arabic": lambda t: t.translate(ARABIC),
    "with an underscore": lambda t: f"0_{t}",
    "as a number": int,
}  # fmt: skip

for _name, _spell in SPELLINGS.items():
    ATTACKS[f"delete the experiment {_name}"] = lambda w, s=_spell: w.post(
        "experiments/delete", {"experiment_id": s(w.experiment_id)}
    )
    ATTACKS[f"is_prompt on the version {_name}"] = lambda w, s=_spell: w.post(
        "model-versions/set-tag",
        {"name": NAME, "version": s("1"), "key": "mlflow.prompt.is_prompt", "value": "true"},
    )

for _key in ("mlflow.prompt.is_prompt", "MLFLOW.PROMPT.IS_PROMPT", "mlflow.prompt.is_prompt "):
    for _value in ("true", "True"):
        ATTACKS[f"tag {_key!r} {_value} on the model"] = lambda w, k=_key, v=_value: w.post(
            "registered-models/set-tag", {"name": NAME, "key": k, "value": v}
        )
        ATTACKS[f"tag {_key!r} {_value} on the version"] = lambda w, k=_key, v=_value: w.post(
            "model-versions/set-tag", {"name": NAME, "version": "1", "key": k, "value": v}
        )

for _way in ("generate", "delete"):
    ATTACKS[f"the demo: {_way}"] = lambda w, way=_way: w.server.send(
        "POST", f"/ajax-api/3.0/mlflow/demo/{way}", {"features": ["prompts"]}
    )
    ATTACKS[f"the demo: {_way} by a slash more"] = lambda w, way=_way: w.followed(
        f"/ajax-api/3.0/mlflow//demo/{way}", {"features": ["prompts"]}
    )


def experiment_at(address: str, *, then_write: str = "") -> Attack:
    """Return the attempt to make an experiment at an address, and a run in it."""

    def act(world: World) -> Answer:
        root = world.server.artifacts
        base = root if root.startswith("s3:") else f"file://{root}"
        where = address.format(base=base, folder=root, run=world.root, exp=world.experiment_id)
        body = {"name": f"at {address}", "artifact_location": where}
        status, text = world.post("experiments/create", body)
        if status == 200 and then_write:
            made = json.loads(text)["experiment_id"]
            run_id = world.client.create_run(made).info.run_id
            return world.by_client(lambda c: c.log_text(run_id, "evil", then_write))
        return status, text

    return act


for _address in (
    "mlflow-artifacts:/{run}/model",  # inside
    "mlflow-artifacts:/{run}",  # equal
    "mlflow-artifacts:/{exp}",  # above
    "mlflow-artifacts:///{run}/model/sub",
    "MLFLOW-ARTIFACTS:/{run}",
    "mlflow-artifacts:/{run}/./model",
    "mlflow-artifacts:/{run}//model",
    "mlflow-artifacts:/",
    "{base}/{run}/model",
    "{base}/{exp}",
    "{base}",
    "{base}/x/../{run}",
    "{folder}/{run}/model/code",
):
    ATTACKS[f"an experiment at {_address}"] = experiment_at(_address)
ATTACKS["an experiment in the frozen files, and a file there"] = experiment_at(
    "mlflow-artifacts:/{run}/model/again", then_write="evil.py"
)


def from_another_run(path: str, body: dict) -> Attack:
    """Return the attempt to write onto the frozen logged model from a run of one's own."""

    def act(world: World) -> Answer:
        run_id = world.client.create_run("0").info.run_id
        text = json.dumps({"run_id": run_id, **body}).replace("MODEL", world.logged)
        return world.post(path, text.encode())

    return act


_METRIC = {"key": "log_loss", "value": 0.0, "timestamp": 1, "step": 0, "model_id": "MODEL"}
ATTACKS |= {
    "metric of the logged model from another run": from_another_run("runs/log-metric", _METRIC),
    "batch of the logged model from another run": from_another_run(
        "runs/log-batch", {"metrics": [_METRIC]}
    ),
    "batch with one metric of the logged model": from_another_run(
        "runs/log-batch", {"metrics": [{**_METRIC, "model_id": ""}, _METRIC]}
    ),
    "the logged model as output of another run": from_another_run(
        "runs/outputs", {"models": [{"model_id": "MODEL", "step": 3}]}
    ),
    "parameters of the logged model": lambda w: w.post(
        f"logged-models/{w.logged}/params", {"params": [{"key": "p", "value": "1"}]}
    ),
    "finalize the logged model again": lambda w: w.post(
        f"logged-models/{w.logged}", {"model_id": w.logged, "status": 3}, method="PATCH"
    ),
}

# A refused upload leaves no folder behind.
for _folder in ("new", "model/new/newer"):
    ATTACKS |= {
        f"PUT into the folder {_folder}": lambda w, f=_folder: w.put(f"{w.root}/{f}/x.txt"),
        f"upload-artifact into the folder {_folder}": lambda w, f=_folder: w.server.send(
            "POST",
            f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={w.run_id}&path={f}/x.txt",
            b"evil",
        ),
        f"multipart create in the folder {_folder}": lambda w, f=_folder: w.server.send(
            "POST",
            f"/api/2.0/mlflow-artifacts/mpu/create/{w.root}/{f}",
            {"path": "x.txt", "num_parts": 1},
        ),
        f"log_text into the folder {_folder}": lambda w, f=_folder: w.by_client(
            lambda c: c.log_text(w.run_id, "evil", f"{f}/x.txt")
        ),
    }


def presigned(path: str, **changes: object) -> Attack:
    """Return the request for an address to which a frozen file could be written."""
    return lambda w: w.post(
        "artifacts/presigned-upload-url", {"run_id": w.run_id, "path": path, **changes}
    )


def presigned_of_the_model(path: str) -> Attack:
    """Return the same for a file of the frozen logged model."""
    return lambda w: w.post(
        "artifacts/presigned-upload-url", {"model_id": w.logged, "path": path, "expiration": 600000}
    )


# These go to a server whose runs keep their files directly in an object store.
ATTACKS_ON_OBJECTS: dict[str, Attack] = {
    "presigned: a file of the version": presigned("model/MLmodel"),
    "presigned: a new file beside it": presigned("model/code/sitecustomize.py"),
    "presigned: for a week": presigned("model/weights.safetensors", expiration=604800),
    "presigned: by a doubled slash": presigned("model//MLmodel"),
    "presigned: a file of the logged model": presigned_of_the_model("MLmodel"),
    "presigned: a new file of the logged model": presigned_of_the_model("code/evil.py"),
}
