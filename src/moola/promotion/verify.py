"""Reading the whole history again: chain, signatures, model files, and what the registry says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moola.config.names import ALIAS_PRODUCTION
from moola.errors import MoolaError, one_line
from moola.promotion.aliases.findings import alias_findings
from moola.promotion.evidence.proof import (
    does_not_count,
    last_promotion,
    own_file_findings,
    require_proof,
)
from moola.promotion.ledger.belief import GENESIS, Belief
from moola.promotion.ledger.content import Intent, Move, Unreadable
from moola.promotion.ledger.entry import MOVES, Entry
from moola.promotion.ledger.lines import of_alias, open_intent
from moola.promotion.parts import ProductionParts
from moola.promotion.state import read_state
from moola.promotion.versions.files import local_folder, odd_files

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_MANY = 20  # odd files of one version that are named one by one


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of reading one registered model's whole history again.

    Parameters
    ----------
    name
        The registered model.
    head
        Hash of the ledger's last entry; kept elsewhere, it proves later that nothing was cut off.
    num_entries
        Entries about this model.
    champion
        The version in Production by the moves of the ledger that count.
    findings
        What is wrong, in plain words; empty if nothing is.
    notes
        What should be known and is not wrong: lines from before there were signatures, lines that
        nothing follows from and that do not count.
    """

    name: str
    head: str | None
    num_entries: int
    champion: str | None
    findings: tuple[str, ...]
    notes: tuple[str, ...] = ()


def verify(parts: ProductionParts) -> Verification:
    """Check the ledger and its table, what each promotion rests on, and the present state.

    Every promotion and rollback must be signed by a trusted key. Of every version that held
    Production, the evidence of its last promotion must be signed, name this version, its run and
    its files, and show the gates passed that its evaluation required; run, experiment, logged model
    and files must exist; and a version of Moola's own models must be Moola's own packaging, with
    the classes of the set it was judged on.

    Raises
    ------
    TrackingError
        If registry or ledger cannot be reached.
    """
    client, ledger, name = parts.client, parts.ledger, parts.name
    every = ledger.entries()
    chain = ledger.findings(every)
    findings = [*chain, *ledger.schema_findings()]
    if every and not chain:
        ledger.note(every[-1], compared=True)
    view = ledger.view_of(every, parts.keys)
    belief, entries, moves = view.belief, view.entries(name), view.entries(name, events=MOVES)
    every_move = belief.moves(moves)
    counting = of_alias(every_move, ALIAS_PRODUCTION)
    findings += [
        does_not_count(entry, why) for entry in moves if (why := belief.why_not(entry)) is not None
    ]
    findings += [
        f"ledger entry {entry.seq}: its signature does not fit"
        for entry in every
        if entry.event not in MOVES and belief.has_false_signature(entry)
    ]
    findings += _unended(entries, belief)
    by_gates = [entry for entry in counting if not _is_attested(entry)]
    for version in dict.fromkeys(str(entry.version_to) for entry in by_gates):
        findings += _version_findings(parts, by_gates, version, belief)
    by_aliases, notes = alias_findings(
        parts, [e for e in every_move if _is_attested(e)], every_move
    )
    findings += by_aliases
    champion = counting[-1].version_to if counting else None
    state = read_state(client, name)
    if not state.agrees or state.alias_version != champion:
        holders = ", ".join(state.stage_versions) or "none"
        findings.append(
            f"the ledger has version {champion} in Production, the alias names "
            f"{state.alias_version}, the stage is held by {holders}"
        )
    head = None if chain else every[-1].entry_hash if every else GENESIS
    return Verification(
        name=name,
        head=head,
        num_entries=len(entries),
        champion=champion,
        findings=tuple(findings),
        notes=(*notes, *_notes(every, belief)),
    )


def _is_attested(move: Entry) -> bool:
    """Return whether a move rests on attestations, not on evidence of the profile ``ohlc``."""
    return isinstance(move.content, Move) and bool(move.content.attestations)


def _unended(entries: list[Entry], belief: Belief) -> list[str]:
    pending = open_intent(entries, belief)
    if pending is None or not isinstance(pending.content, Intent):
        return []
    finding = f"a {pending.content.event} begun at {pending.at} was not ended"
    why_not = belief.why_not(pending)
    return [finding if why_not is None else f"{finding}; {does_not_count(pending, why_not)}"]


def _version_findings(
    parts: ProductionParts, moves: list[Entry], version: str, belief: Belief
) -> list[str]:
    """Return all that is wrong with one version; nothing about it ends the verification."""
    client, name = parts.client, parts.name
    try:
        model_version = client.get_model_version(name, version)
    except Exception as error:  # whatever MLflow, its client or its database raise
        return [f"version {version}: it cannot be read: {one_line(error)}"]
    findings = [f"version {version}: {finding}" for finding in _absent(client, model_version)]
    odd = _odd_files(client, name, version)
    if odd:  # to copy them could take for ever
        return [*findings, *(f"version {version}: file {finding}" for finding in odd)]
    try:
        proof = last_promotion(moves, version, belief)
        evidence = require_proof(client, proof, parts.keys, policy=None)
        odd = own_file_findings(client, name, version, evidence, data_root=parts.data_root)
        findings += [f"version {version}: {finding}" for finding in odd]
    except MoolaError as refusal:
        findings.append(f"version {version}: {str(refusal).rstrip('.')}")
    except (OSError, RecursionError) as error:
        findings.append(f"version {version}: its files cannot be read: {one_line(error)}")
    return findings


def _absent(client: MlflowClient, model_version: ModelVersion) -> Iterator[str]:
    """Yield which of run, experiment and logged model is not there, or is deleted."""
    from mlflow.exceptions import MlflowException

    experiment_id = None
    if model_version.run_id:
        try:
            run = client.get_run(model_version.run_id)
        except MlflowException:
            yield f"run {model_version.run_id} is not there"
        else:
            experiment_id = run.info.experiment_id
            if run.info.lifecycle_stage != "active":
                yield f"run {model_version.run_id} is {run.info.lifecycle_stage}"
    model_id = _model_id(model_version)
    if model_id is not None:
        try:
            logged = client.get_logged_model(model_id)
            experiment_id = experiment_id or logged.experiment_id
        except MlflowException:
            yield f"logged model {model_id} is not there"
    if experiment_id is not None:
        try:
            experiment = client.get_experiment(experiment_id)
        except MlflowException:
            yield f"experiment {experiment_id} is not there"
        else:
            if experiment.lifecycle_stage != "active":
                yield f"experiment {experiment_id} is {experiment.lifecycle_stage}"


def _model_id(model_version: ModelVersion) -> str | None:
    source = str(model_version.source or "")
    if source.startswith("models:/m-"):
        return source.removeprefix("models:/").split("/")[0]
    return model_version.model_id or None


def _odd_files(client: MlflowClient, name: str, version: str) -> list[str]:
    """Return what lies among a version's files on this machine and is no readable file."""
    from mlflow.exceptions import MlflowException

    try:
        folder = local_folder(client.get_model_version_download_uri(name, version))
    except MlflowException as error:
        return [f"address cannot be told: {one_line(error)}"]
    if folder is None:
        return []
    if not folder.is_dir():
        return [f"folder {folder.name!a} is not there"]
    odd = odd_files(folder)
    more = [f"list goes on: {len(odd) - _MANY} more are odd"] if len(odd) > _MANY else []
    return [*odd[:_MANY], *more]


def _notes(every: list[Entry], belief: Belief) -> Iterator[str]:
    if belief.unsigned_up_to:
        moves = [e for e in every if e.event in MOVES and e.seq <= belief.unsigned_up_to]
        yield (
            f"{len(moves)} moves up to ledger entry {belief.unsigned_up_to} are from before lines "
            "were signed"
        )
    looks = [entry for entry in every if entry.event == "test_look"]
    if ignored := len(looks) - len(belief.counting(looks)):
        yield f"{ignored} of {len(looks)} looks at locked test windows do not count"
    tried = [entry for entry in every if entry.event == "tried"]
    if ignored := len(tried) - len(belief.counting(tried)):
        yield f"{ignored} of {len(tried)} judgements on validation windows do not count"
    others = [e for e in every if e.event not in (*MOVES, "test_look", "tried")]
    odd = [
        e for e in others if e.entry_hash == e.computed_hash() and isinstance(e.content, Unreadable)
    ]
    if odd:
        numbers = ", ".join(str(entry.seq) for entry in odd[:_MANY])
        more = f" and {len(odd) - _MANY} more" if len(odd) > _MANY else ""
        yield f"ledger entry {numbers}{more}: cannot be understood, and nothing follows from it"
