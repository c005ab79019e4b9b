"""What the guarded server knows and decides: policy, trusted keys, ledger, what is frozen."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from moola.config.names import ALIAS_PRODUCTION, REGISTERED_MODEL, TAG_MODEL_DIGEST
from moola.config.policy import Kind, Policy, Rule
from moola.config.promotion import TAG_EVIDENCE
from moola.errors import PromotionRefused
from moola.promotion.evidence.attestation import Evidence
from moola.promotion.evidence.checks import check_evidence
from moola.promotion.evidence.keys import TrustedKeys, key_id, load_trusted_keys
from moola.promotion.guard.frozen import Frozen, Places, find_frozen
from moola.promotion.guard.uploads import Uploads
from moola.promotion.ledger.content import LookLine, Move
from moola.promotion.ledger.entry import MOVES, Draft, Entry
from moola.promotion.ledger.key_changes import note_key_changes
from moola.promotion.ledger.lines import looks_at, of_alias
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.webhooks import Webhooks

_LONGEST_WAIT_SECONDS = 20.0
MOOLA_TAGS = (TAG_MODEL_DIGEST, TAG_EVIDENCE)  # `moola train` and `moola evaluate` set them


@dataclass(kw_only=True)
class Guard:
    """The rules of one guarded server.

    Parameters
    ----------
    policy
        The policy in force.
    trusted_folder
        Folder of public keys; read again for every promotion, so a revocation counts at once.
    ledger
        The ledger in the registry's database.
    artifacts_destination
        Where the server keeps the files of ``mlflow-artifacts:`` addresses.
    artifact_root
        Default artifact root of new experiments.
    lock_file
        Held while a promotion reads a version's files and while an upload takes its name.
    webhooks
        Who is told of promotions, refusals and rollbacks.
    """

    policy: Policy
    trusted_folder: Path
    ledger: LocalLedger
    artifacts_destination: str
    artifact_root: str
    lock_file: Path
    webhooks: Webhooks | None = None
    _frozen: tuple[int, Frozen] | None = field(default=None, init=False)
    _frozen_lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _readers: dict[str, threading.Lock] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.places = Places(destination=self.artifacts_destination, root=self.artifact_root)
        self.uploads = Uploads(self.ledger)

    def trusted_keys(self) -> TrustedKeys:
        """Read the trusted keys as they are now, this server's own among the servers'."""
        trusted = load_trusted_keys(self.trusted_folder)
        if self.ledger.signer is None:
            return trusted
        server_key = self.ledger.signer.public_key()
        return replace(trusted, servers={**trusted.servers, key_id(server_key): server_key})

    def note_keys(self) -> None:
        """Write into the ledger which keys began or ceased to count since it last said so."""
        note_key_changes(self.ledger, self.trusted_keys(), who="server")

    def kind(self, name: str) -> Kind:
        """Return a model's kind as it was noted when it was made, whatever its tags say now."""
        if name == REGISTERED_MODEL:
            return "moola"
        origins = self.ledger.origins(name)
        if any(origin.kind == "moola" for origin in origins):
            return "moola"
        kinds = [origin.kind for origin in origins if not origin.version]
        return "prompt" if kinds and kinds[-1] == "prompt" else "model"

    def enforced(self, name: str, alias: str | None = None) -> tuple[Rule, ...]:
        """Return the rules about a model, or one of its aliases, that refuse."""
        return tuple(rule for rule in self.rules_for(name, alias) if rule.mode == "enforce")

    def rules_for(self, name: str, alias: str | None = None) -> tuple[Rule, ...]:
        """Return the rules about a model, or one of its aliases."""
        rules = self.policy.by_name(name, alias)
        if not any(rule.asks_kind for rule in rules):
            return rules  # the database need not be asked, of a free model neither
        return self.policy.rules_for(name, alias, kind=self.kind(name))

    def registered_by(self, name: str, version: str, run_id: str | None) -> str | None:
        """Return who registered a version: the user who was logged in, else the run's word."""
        noted = [o.who for o in self.ledger.origins(name) if o.version == version and o.who]
        if noted:
            return noted[-1]
        return None if run_id is None else self._run_user(run_id)

    def note_existing(self) -> None:
        """Note what each model is that was there before; no tag set later changes that."""
        noted = {origin.name for origin in self.ledger.origins()}
        for name, kind in self.ledger.registered_kinds(MOOLA_TAGS).items():
            if name not in noted:
                self.ledger.note_origin(name, kind=kind, who=None)

    def _run_user(self, run_id: str) -> str | None:
        from mlflow.exceptions import MlflowException
        from mlflow.server import handlers

        try:
            tags = handlers._get_tracking_store().get_run(run_id).data.tags
        except MlflowException:
            return None
        return tags.get("mlflow.user") or None

    def write_down(self, draft: Draft) -> Entry:
        """Append an entry that moves nothing, and announce it."""
        entry = self.ledger.append(draft)
        self.announce(entry)
        return entry

    def announce(self, entry: Entry) -> None:
        """Tell the webhooks of an entry that is committed; never waits and never fails."""
        if self.webhooks is not None:
            self.webhooks.announce(entry)

    @contextmanager
    def files_held(self, *, exclusive: bool = False) -> Iterator[None]:
        """Keep uploads and promotions of this machine apart."""
        with self.lock_file.open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield

    def frozen(self) -> Frozen:
        """Return what is frozen now: every version that ever held Production, and its run."""
        last = self.ledger.last_seq(MOVES)
        cached = self._frozen
        if cached is None or cached[0] != last:
            with self._frozen_lock:
                cached = (last, find_frozen(self.places, self._moved()))
                self._frozen = cached
        return cached[1]

    @contextmanager
    def reading_files(self, user: str) -> Iterator[None]:
        """Let one user have the files of one version read at a time, so that nobody else waits."""
        lock = self._readers.setdefault(user, threading.Lock())
        if not lock.acquire(timeout=_LONGEST_WAIT_SECONDS):
            raise PromotionRefused(
                f"another promotion that {user} asked for is still being checked",
                remedy="Try again when it has ended",
            )
        try:
            yield
        finally:
            lock.release()

    def _moved(self) -> set[tuple[str, str]]:
        lines = self.ledger.entries(events=MOVES)  # whoever signed them: unknown is not unfrozen
        return {(e.name, str(e.version_to)) for e in lines if isinstance(e.content, Move)}

    def reasons_against(
        self,
        evidence: Evidence,
        *,
        name: str,
        version: str,
        run_id: str | None,
        champion: str | None,
        entries: list[Entry],
        user: str | None,
    ) -> list[str]:
        """Return why signed evidence does not put a version into Production, its files left out."""
        reasons = check_evidence(
            evidence,
            name=name,
            version=version,
            run_id=run_id,
            model_sha256=None,  # the files are read once all else is good
            policy=self.policy.ohlc,
            now=self.ledger.clock(),
        )
        if evidence.champion != champion:
            reasons.append(
                f"it was compared with version {evidence.champion}, in Production is {champion}"
            )
        if any(e.evidence_digest == evidence.digest and e.event in MOVES for e in entries):
            reasons.append("its evidence was used before; each move needs evidence of its own")
        belief = self.ledger.belief(self.trusted_keys())
        if evidence.purpose == "rollback":
            reasons += _never_promoted(evidence, of_alias(belief.moves(entries), ALIAS_PRODUCTION))
        else:
            looks = [entry for entry in entries if entry.event == "test_look"]
            reasons += _test_set_reasons(evidence, belief.counting(looks), len(looks))
        promoters = self.policy.ohlc.promoters
        if promoters and user not in promoters:
            reasons.append(f"user {user} may not move Production")
        return reasons


def deny(sentence: str) -> NoReturn:
    """Raise what MLflow answers with 403 and the sentence, in the client and on the page."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    raise MlflowException(sentence, error_code=PERMISSION_DENIED)


def _never_promoted(evidence: Evidence, entries: list[Entry]) -> list[str]:
    proofs = [
        e
        for e in entries
        if e.event == "promotion"
        and e.version_to == evidence.version
        and isinstance(e.content, Move)
        and e.content.model_sha256 == evidence.model_sha256
    ]
    return [] if proofs else ["a rollback goes only to a version that held Production as it is"]


def _test_set_reasons(evidence: Evidence, earlier_looks: list[Entry], num_lines: int) -> list[str]:
    """Return what the looks that count, out of so many lines about looks, have against evidence."""
    reasons = []
    if evidence.purpose != "promotion" or evidence.promotion_verdict != "passed":
        reasons.append(
            "the promotion gate on the locked test windows is "
            f"{evidence.promotion_verdict or 'absent'} (`moola promote` asks it)"
        )
    split = evidence.data.get("split_sha256")
    looks = [
        (e, e.content.windows)
        for e in earlier_looks
        if e.version_to == evidence.version
        and isinstance(e.content, LookLine)
        and e.content.windows.get("split_sha256") == split
    ]
    if not looks:
        ignored = num_lines - len(earlier_looks)
        aloud = f" ({ignored} that no gate runner signed do not count)" if ignored else ""
        return [*reasons, f"this server's ledger holds no look at the test set{aloud}"]
    last, windows = looks[-1]
    least = len(looks_at([e for e in earlier_looks if e.seq <= last.seq], windows))
    if (evidence.test_looks or 0) < least:
        reasons.append(
            f"it was judged as look {evidence.test_looks} at the test windows, its last is number "
            f"{least} in this server's ledger"
        )
    return reasons
