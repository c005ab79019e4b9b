"""Production without evidence, in every spelling."""

from __future__ import annotations

import json

from guard_world import Attack
from promotion_kit import NAME

ATTACKS: dict[str, Attack] = {}
# What the refusal has to say, where an attack could be refused for another reason as well.
SAYS = {
    "an evaluated version, test set not looked at": "carries no evidence",
}


for _prefix in ("api", "ajax-api"):
    for _stage in ("Production", "production", "PRODUCTION"):
        ATTACKS[f"stage {_stage} by {_prefix}"] = lambda w, s=_stage, p=_prefix: w.stage(
            "3", s, prefix=p
        )
    for _alias in ("production", "Production", "PRODUCTION", "live"):
        ATTACKS[f"alias {_alias} by {_prefix}"] = lambda w, a=_alias, p=_prefix: w.alias(
            "3", a, prefix=p
        )
for _alias in (" production", "production ", "\u00a0Production"):
    ATTACKS[f"alias {_alias!r}"] = lambda w, a=_alias: w.alias("3", a)
for _version in ("03", "+3", " 3", "\u0663"):
    ATTACKS[f"version spelled {_version!r}"] = lambda w, v=_version: w.stage(v, "Production")
ATTACKS |= {
    "stage with archive": lambda w: w.stage("3", "Production", archive_existing_versions=True),
    "stage as double-encoded JSON": lambda w: w.post(
        "model-versions/transition-stage",
        json.dumps({"name": NAME, "version": "3", "stage": "Production"}),
    ),
    "stage as text/plain": lambda w: w.server.send(
        "POST",
        "/api/2.0/mlflow/model-versions/transition-stage",
        {"name": NAME, "version": "3", "stage": "Production"},
        headers={"Content-Type": "text/plain"},
    ),
    "stage in chunks": lambda w: w.chunked(
        "model-versions/transition-stage",
        json.dumps({"name": NAME, "version": "3", "stage": "Production"}).encode(),
    ),
    "stage by a doubled slash": lambda w: w.followed(
        "//api/2.0//mlflow/model-versions/transition-stage",
        {"name": NAME, "version": "3", "stage": "Production"},
    ),
    "stage by another method": lambda w: w.server.send(
        "GET",
        f"/api/2.0/mlflow/model-versions/transition-stage?name={NAME}&version=3&stage=Production",
        headers={"X-HTTP-Method-Override": "POST"},
    ),
    "stage by client": lambda w: w.by_client(
        lambda c: c.transition_model_version_stage(NAME, "3", "production")
    ),
    "alias by client": lambda w: w.by_client(
        lambda c: c.set_registered_model_alias(NAME, "production", "3")
    ),
    "an evaluated version, test set not looked at": lambda w: w.stage("2", "Production"),
    "another model": lambda w: w.stage("1", "Production", name="Other"),
    "alias on another model": lambda w: w.alias("1", "production", name="Other"),
    "alias and stage in one request": lambda w: (
        w.post(
            "model-versions/create",
            {"name": NAME, "source": "s3://x/y", "stage": "Production", "aliases": ["production"]},
        )
        and w.stage("4", "Production")
    ),
}
