"""Serve the proven version in Production: where versions come from and what they must show."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moola.config.policy import Policy
from moola.config.promotion import TRUSTED_FOLDER, PromotionPolicy
from moola.config.serving import ENV_SETTINGS, ENV_TOKEN, ServeConfig
from moola.errors import MoolaError, PromotionRefused, Unsettled
from moola.models.device import resolve_device
from moola.promotion.evidence.attestation import Evidence
from moola.promotion.evidence.keys import load_trusted_keys
from moola.promotion.evidence.proof import evidence_in, last_promotion, require_proof
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.entry import MOVES
from moola.promotion.production import ledger_of
from moola.promotion.state import read_state
from moola.promotion.versions.classes import require_judged_classes
from moola.promotion.versions.digest import model_files_digest
from moola.promotion.versions.fetched import fetched
from moola.promotion.versions.inspection import Inspection, inspect
from moola.serving.follow import Served
from moola.serving.pyfunc import checkpoint_of
from moola.serving.scoring import WindowScorer
from moola.tracking.store import connect

if TYPE_CHECKING:
    from fastapi import FastAPI
    from mlflow import MlflowClient

_KEEP_ALIVE_SECONDS = 75  # uvicorn's own 5 s cut off callers that pause for longer


class ProductionSource:
    """The version in Production, if the ledger's signed evidence is about exactly its files.

    The files are copied to a private folder and looked at in a process of its own with limits,
    their digest and classes are compared with the signed ones, and the model is built from that
    copy, so that nothing can be changed in between. No code that came with the version is run.
    """

    def __init__(
        self,
        client: MlflowClient,
        ledger: Ledger,
        name: str,
        *,
        trusted_folder: Path,
        policy: PromotionPolicy,
        device: str = "cpu",
        data_root: Path | None = None,
    ):
        self._data_root = data_root
        self._client = client
        self._ledger = ledger
        self._name = name
        self._trusted_folder = trusted_folder
        self._policy = policy
        self._device = device

    def wanted(self) -> str | None:
        """Return the version in Production; raises Unsettled while alias and stage disagree."""
        try:
            state = read_state(self._client, self._name)
        except PromotionRefused:  # the model is gone, and its Production with it
            return None
        return state.champion

    def check(self, served: Served) -> None:
        """Raise PromotionRefused if the evidence of a loaded version no longer counts.

        Raises Unsettled if the ledger's last move is to another version.
        """
        self._require(served.version, served.sha256)

    def load(self, version: str) -> Served:
        """Copy, verify and load a version."""
        self._require(version)  # a version without any is not worth a download
        with fetched(self._client, self._name, version) as folder:
            evidence = self._require(version, model_files_digest(folder))
            inspection = inspect(folder)
            classes = inspection.class_names
            require_judged_classes(classes, evidence.data, data_root=self._data_root)
            return _served(folder, version, inspection, proven=True, device=self._device)

    def _require(self, version: str, digest: str | None = None) -> Evidence:
        """Ask for signed evidence, and of files that are here already for all it must show."""
        # Read each time: a key revoked while the server runs counts no more.
        trusted = load_trusted_keys(self._trusted_folder)
        self._ledger.check_chain()
        belief = self._ledger.belief(trusted)
        moves = self._ledger.entries(self._name, events=MOVES)
        proof = last_promotion(moves, version, belief)
        moves = belief.moves(moves)
        if moves[-1].version_to != version:
            raise Unsettled(
                f"version {version} of {self._name} is in Production, the ledger's last move is to "
                f"version {moves[-1].version_to}",
                limit="one and the same version",
                remedy="Run `moola rollback --to VERSION` or `moola promote`",
            )
        if digest is None:
            return evidence_in(proof, trusted)
        return require_proof(self._client, proof, trusted, policy=self._policy, model_sha256=digest)


class PinnedSource:
    """One version, whatever it was or was not shown to be."""

    def __init__(self, client: MlflowClient, name: str, version: str, *, device: str = "cpu"):
        self._client = client
        self._name = name
        self._version = version
        self._device = device

    def wanted(self) -> str | None:
        """Return the version."""
        return self._version

    def check(self, served: Served) -> None:
        """Accept it."""

    def load(self, version: str) -> Served:
        """Copy and load it."""
        with fetched(self._client, self._name, version) as folder:
            return _served(folder, version, inspect(folder), proven=False, device=self._device)


def _served(
    folder: Path, version: str, inspection: Inspection, *, proven: bool, device: str
) -> Served:
    scorer = WindowScorer.load(checkpoint_of(folder), version=version, device=device)
    return Served(scorer=scorer, version=version, sha256=inspection.sha256, proven=proven)


def make_source(config: ServeConfig) -> ProductionSource | PinnedSource:
    """Return where the versions to serve come from; sets the number of torch's threads."""
    import torch

    torch.set_num_threads(config.threads)
    client = connect()
    device = resolve_device(config.device)
    if config.version is not None:
        return PinnedSource(client, config.name, config.version, device=device)
    return ProductionSource(
        client,
        ledger_of(config.ledger_url, Path(config.project)),
        config.name,
        trusted_folder=Path(config.project) / TRUSTED_FOLDER,
        policy=Policy.in_force(Path(config.project)).ohlc,
        device=device,
        data_root=Path(config.project) / "data",
    )


def worker_app() -> FastAPI:
    """Return the application of one of several processes, by what the environment says."""
    from moola.serving.app import create_app
    from moola.serving.observe import log_to_stderr

    log_to_stderr()
    config = ServeConfig.from_mapping(json.loads(os.environ[ENV_SETTINGS]))
    try:
        return create_app(config, make_source(config), token=os.environ.get(ENV_TOKEN))
    except MoolaError as error:
        logging.getLogger("moola.serve").error("not served: %s", error)
        raise SystemExit(error.exit_code) from None


def serve(config: ServeConfig, *, on_verified: Callable[[], None] = lambda: None) -> None:
    """Serve until stopped.

    The bearer token is read from ``MOOLA_SERVE_TOKEN``.

    Parameters
    ----------
    config
        What to serve, where, and its limits.
    on_verified
        Called once what is served is loaded and verified, before the server listens.

    Raises
    ------
    MoolaError
        If there is nothing to serve or it is refused.
    """
    import uvicorn

    from moola.serving.app import create_app
    from moola.serving.heads import BoundedHeads
    from moola.serving.observe import log_to_stderr

    options: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "http": BoundedHeads,
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": _KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": max(1, round(config.grace_seconds)),
    }
    log_to_stderr()
    source = make_source(config)
    if config.workers == 1:
        app = create_app(config, source, token=os.environ.get(ENV_TOKEN))
        on_verified()
        uvicorn.run(app, **options)
        return
    if version := source.wanted():
        source.load(version)  # what is refused ends here, not in a worker that is started for ever
    on_verified()
    with tempfile.TemporaryDirectory(prefix="moola-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        os.environ[ENV_SETTINGS] = json.dumps(config.to_dict())
        uvicorn.run("moola.steps.serve:worker_app", factory=True, workers=config.workers, **options)
