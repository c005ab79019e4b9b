"""One context manager a run: whatever happens inside, the run ends with a status and a reason."""

from __future__ import annotations

import logging
import os
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from moola.config import names
from moola.errors import MoolaError, TrackingError, one_line
from moola.interrupt import Terminated, sigterm_raises
from moola.tracking.lineage import environment, git_state, git_tags
from moola.tracking.proofs import IN_PARENT, PROOFS, none_of_them
from moola.tracking.run import TrackedRun, tag_texts
from moola.tracking.sender import Sender
from moola.tracking.spool import Spool, left_spools
from moola.tracking.store import absolute_uri, artifact_location, connect, open_store, shown

__all__ = ["TrackedRun", "child_run", "fail_joined_run", "tracked_run"]

_LOG = logging.getLogger(__name__)
_RUN_VARIABLE = "MLFLOW_RUN_ID"


@contextmanager
def tracked_run(
    *,
    step: str,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    without: Mapping[str, str] | None = None,
    device: str | None = None,
    tracking_uri: str | None = None,
) -> Iterator[TrackedRun]:
    """Open a run, or join the one that ``mlflow run`` opened, and end it whatever happens.

    `without` names proofs that a run of this kind does not have, each with the reason (see
    `moola.tracking.proofs`). What is not logged when the run ends gets its reason then.

    FINISHED when the block ends; KILLED on SIGTERM or Ctrl-C; FAILED on any other exception, with
    the reason in the tag ``moola.reason`` and the traceback as an artifact.

    A store that is away holds nothing up: the run goes into the spool and reaches the store with
    the next run or ``moola sync``. What earlier runs left there is sent beside this one.
    """
    with _sender(open_store(tracking_uri)) as sender, sigterm_raises():
        run = _opened(sender, experiment, name)
        try:
            run.set_tags({names.TAG_STEP: step, **git_tags(run.git)})
            run.proofs.open(without)
            run.log_params(params)
            run.log_json(names.ARTIFACT_ENVIRONMENT, environment(device, params.get("seed")))
            if run.git.diff:
                run.log_bytes(names.ARTIFACT_DIFF, run.git.diff.encode())
            yield run
            sender.wait(sender.drained)
            if sender.spool.refused:
                raise TrackingError(f"the tracking store refused {'; '.join(sender.spool.refused)}")
            run.proofs.close()
        except BaseException as error:
            _end_badly(run, error)
            raise
        run.end("FINISHED")


@contextmanager
def child_run(
    parent: TrackedRun,
    name: str,
    *,
    tags: Mapping[str, Any],
    metrics: Mapping[str, float | None],
    proofs: Sequence[str] = (),
) -> Iterator[TrackedRun]:
    """Open a run below `parent`, in the parent's experiment.

    `proofs` names those that the child logs itself; for the others it points to its parent.
    """
    run = TrackedRun(parent.client, parent.sender, uuid.uuid4().hex, name, parent.git)
    elsewhere = {name: IN_PARENT for name in PROOFS if name not in proofs}
    child_tags = {**git_tags(parent.git), **tags, **run.proofs.begin(elsewhere)}
    body = {"name": name, "tags": tag_texts(child_tags), "start_time": int(time.time() * 1000)}
    parent.sender.append(run.key, "open", {**body, "parent": parent.key})
    try:
        run.log_metrics(metrics)
        yield run
    except BaseException as error:
        run.proofs.close(error)
        run.end("FAILED")
        raise
    run.proofs.close()
    run.end("FINISHED")


def fail_joined_run(reason: str, *, step: str | None = None) -> None:
    """End the run that ``mlflow run`` opened as FAILED, if no step has joined it yet.

    For errors that come before a step begins, such as a bad argument. `step` is the one that was
    to begin, where the command is one of those that open runs.
    """
    run_id = os.environ.get(_RUN_VARIABLE)
    if not run_id:
        return
    try:
        client = connect()
        proofs = none_of_them(f"refused before the step began: {reason}")
        begun = {names.TAG_STEP: step} if step else {}
        for key, text in tag_texts({names.TAG_REASON: reason, **begun, **proofs}).items():
            client.set_tag(run_id, key, text)
        client.set_terminated(run_id, "FAILED")
    except (MoolaError, MlflowException, OSError):
        return  # the store is the trouble; the reason is on the terminal


@contextmanager
def _sender(client: MlflowClient) -> Iterator[Sender]:
    """Run a sender over a fresh spool; at the end say what could not be sent."""
    store = absolute_uri(mlflow.get_tracking_uri())
    sender = Sender(client, Spool.create(store), _left(store))
    sender.start()
    try:
        yield sender
    finally:
        if not sender.wait(sender.drained):
            _LOG.warning(
                "%s does not take what was logged (%s). It is safe in %s; the next run sends it, "
                "or `moola sync`.",
                shown(store),
                sender.trouble or "no answer",
                sender.spool.folder,
            )
        sender.stop()


def _left(store: str) -> list[Spool]:
    """Take the spools that ended processes left for a store."""
    spools = []
    for folder in left_spools():
        spool = Spool.take(folder)
        if spool is None:
            continue
        if spool.store == store:
            spool.add_missing_ends()
            if spool.waiting:
                spools.append(spool)
                continue
        spool.close()
    return spools


def _opened(sender: Sender, experiment: str, name: str) -> TrackedRun:
    """Write the run's opening down and wait a moment for its id."""
    run = TrackedRun(sender.client, sender, uuid.uuid4().hex, name, git_state())
    joined = os.environ.pop(_RUN_VARIABLE, None)  # one run joins it
    body: dict[str, Any] = {"name": name}
    if joined:
        run.joined = True
        body["join"] = joined
    else:
        body |= {
            "experiment": experiment,
            "artifact_location": artifact_location(mlflow.get_tracking_uri(), experiment),
            "start_time": int(time.time() * 1000),
            "tags": tag_texts({**resolve_tags(), **git_tags(run.git)}),
        }
    sender.append(run.key, "open", body)
    if not sender.wait(lambda: run.key in sender.spool.ids, while_away=False):
        _LOG.warning(
            "%s is away (%s); the run goes on and is kept in the spool",
            sender.spool.store,
            sender.trouble or "no answer",
        )
    return run


def _end_badly(run: TrackedRun, error: BaseException) -> None:
    killed = isinstance(error, KeyboardInterrupt | Terminated)
    reason = f"stopped by {type(error).__name__}" if killed else one_line(error, limit=2000)
    with suppress(OSError):  # the first error is the one to report
        run.set_tags({names.TAG_REASON: reason})
        with suppress(ValueError):  # of a proof that is no JSON
            run.proofs.close(error)
        if not isinstance(error, MoolaError) and not killed:
            run.log_bytes(names.ARTIFACT_TRACEBACK, traceback.format_exc().encode())
        run.end("KILLED" if killed else "FAILED")
