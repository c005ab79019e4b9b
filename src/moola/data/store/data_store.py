"""Versioned window sets: built once, never changed, checked at every load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moola.config.data import SplitRecipe, WindowRecipe, load_recipes, qualified
from moola.data.audit.checks import audit_corpus, audit_split
from moola.data.audit.lineage import lineage_checks
from moola.data.audit.synthetic import synthetic_checks
from moola.data.audit.trail import AuditTrail, Check, CorpusClaim
from moola.data.bars import num_bars
from moola.data.build import Progress, user_name, write_set
from moola.data.imported import UNPROVEN, ImportOptions, write_imported_set
from moola.data.need import refuse_too_few
from moola.data.partitioned import write_partitioned_set
from moola.data.splits import (
    PARTS,
    Split,
    WalkForward,
    forward_chain,
    walk_forward,
    write_split,
)
from moola.data.store.container import DataContainer, with_synthetic
from moola.data.store.layout import Layout
from moola.data.store.review import audit_any_split
from moola.data.store.sets import WindowSet, read_set
from moola.data.synthetic import (
    Augmenter,
    SyntheticSet,
    make_synthetic,
    write_synthetic,
)
from moola.errors import AuditError, DataError
from moola.hashing import atomic_folder

__all__ = ["DataContainer", "DataStore", "WindowSet"]
OnProof = Callable[[str, Mapping[str, Any]], None]


class DataStore(Layout):
    """Load versioned, validated data sets below one root.

    Parameters
    ----------
    data_root
        Folder that holds ``bars/``, ``labeled_windows/``, ``unlabeled_windows/`` and ``splits/``,
        or the URL of one on any file system pyarrow or fsspec knows (``s3://bucket/moola``); a
        URL is worked on in a local cache whose files are checked by digest.
    """

    def load_labeled(
        self,
        version: str = "v1",
        split_name: str = "fwd_chain_v3",
        include_synthetic: bool = False,
        synthetic_version: str | None = None,
        *,
        corpus: CorpusClaim | None = None,
        on_proof: OnProof = lambda proof, content: None,
    ) -> DataContainer:
        """Load a labelled set under a split, audited.

        Parameters
        ----------
        version, split_name
            ``v1`` or ``labeled_windows/v1``; ``fwd_chain_v3`` or ``splits/fwd_chain_v3.json``.
        include_synthetic, synthetic_version
            Append a synthetic set to train; val and test never hold a synthetic row. Its quality
            is tested again now: p below 0.1 refuses.
        corpus
            What an encoder that will be used was trained on; the audit checks it against val and
            test.
        on_proof
            Told the ``split`` and the ``audit`` as soon as each is known, also one that is refused.

        Returns
        -------
        DataContainer
            Its parts in price units, and the audit trail.

        Raises
        ------
        DataError
            If the set or the split is absent or malformed.
        AuditError
            If anything in it must not be believed; the message names the windows.
        """
        labeled = self.load_set(qualified(version, "labeled_windows"))
        split = self.load_split(split_name)
        on_proof("split", split.to_dict())
        audit = self.audit(labeled, split, corpus=corpus)
        synthetic = self._synthetic(include_synthetic, synthetic_version)
        if synthetic is not None and audit.passed:
            audit = with_synthetic(audit, synthetic, labeled, split)
        on_proof("audit", audit.to_dict())
        audit.require()
        assert labeled.y is not None
        arrays: dict[str, Any] = {
            f"X_{p}": np.asarray(labeled.X_ohlc[getattr(split, p)]) for p in PARTS
        }
        arrays |= {f"y_{p}": labeled.y[getattr(split, p)] for p in PARTS}
        flags = np.zeros(len(split.train), dtype=bool)
        if synthetic is not None:
            arrays["X_train"] = np.concatenate([arrays["X_train"], synthetic.X_ohlc])
            arrays["y_train"] = np.concatenate([arrays["y_train"], synthetic.y])
            flags = np.r_[flags, np.ones(len(synthetic), dtype=bool)]
        return DataContainer(
            labeled=labeled,
            split=split,
            **arrays,
            metadata={
                **labeled.meta,
                "split_name": split.name,
                "split_strategy": split.strategy,
                "split_sha256": split.digest(),
            },
            audit_trail=audit.to_dict(),
            synthetic_train=flags,
        )

    def load_unlabeled(self, version: str = "v1") -> dict[str, Any]:
        """Load an unlabelled set: ``{"X_ohlc", "metadata", "manifest", "claim", "windows"}``."""
        loaded = self.load_set(qualified(version, "unlabeled_windows"))
        return {
            "X_ohlc": loaded.X_ohlc,
            "metadata": dict(loaded.meta),
            "manifest": dict(loaded.manifest),
            "claim": loaded.claim(),
            "windows": loaded,
        }

    def audit(
        self, labeled: WindowSet, split: Split, *, corpus: CorpusClaim | None = None
    ) -> AuditTrail:
        """Audit a set under a split, and against the corpus an encoder was trained on.

        Where the data store holds the source's bars, the set is derived from them again.
        """
        pairs = None
        if corpus is not None and self.has_set(corpus.name):
            candidate = self.load_set(corpus.name)
            if candidate.sha256 != corpus.sha256:
                raise AuditError(
                    f"corpus {corpus.name} has digest {candidate.sha256[:12]}, but the encoder was "
                    f"trained on {corpus.sha256[:12]}",
                    remedy="Pretrain again on the set that is stored here",
                )
            pairs = candidate.X_ohlc
        return audit_split(
            split,
            y=labeled.y,
            num_classes=labeled.num_classes,
            X_NTC=labeled.X_ohlc,
            times=labeled.times,
            clock=labeled.clock,
            labeled_name=labeled.name,
            labeled_sha256=labeled.sha256,
            source=labeled.source,
            corpus=corpus,
            X_corpus_NTC=pairs,
            extra=self.lineage(labeled),
        )

    def lineage(self, windows: WindowSet, *, with_features: bool = False) -> list[Check]:
        """Derive a set again from its source's bars and compare (see `lineage_checks`)."""
        if windows.manifest.get("imported"):
            return [Check(name="the set can be derived again", passed=True, detail=UNPROVEN)]
        self.fetch_bars(windows.source, required=False)
        if not (self.data_root / "bars" / f"{windows.source}.parquet").exists():
            detail = f"not compared: bars/{windows.source}.parquet is not in this data store"
            return [Check(name="the set can be derived again", passed=True, detail=detail)]
        bars = self.load_bars(windows.source)
        self._root.fetch(f"labels/{windows.recipe.label_file}", required=False)
        return lineage_checks(windows, bars, self.data_root / "labels", with_features=with_features)

    def audit_corpus(
        self, corpus: WindowSet, train: NDArray[np.int64], held_out: NDArray[np.int64]
    ) -> AuditTrail:
        """Derive a corpus again from its bars; `held_out` windows must share no bar with `train`.

        Rows are those of the corpus, in time order; windows between the two are purged.
        """
        return audit_corpus(corpus, train, held_out, extra=self.lineage(corpus))

    def build(
        self,
        recipes: Path | None = None,
        *,
        report: Callable[[str, str], None] = lambda name, what: None,
    ) -> dict[str, str]:
        """Build every set and split of a recipe file that does not exist yet.

        Parameters
        ----------
        recipes
            YAML file; None takes the recipes that ship with Moola.
        report
            Called with a name and what happened to it, for progress.

        Returns
        -------
        Digest of every set and split by name.
        """
        sets, splits = load_recipes(recipes)
        self.refuse_too_few(sets, splits)
        digests: dict[str, str] = {}
        for name, recipe in sets.items():
            report(name, "building")
            digests[name] = self.build_set(name, recipe).sha256
        for name, split_recipe in splits.items():
            report(f"splits/{name}", "building")
            digests[f"splits/{name}"] = self.build_split(name, split_recipe).digest()
        return digests

    def refuse_too_few(
        self, sets: Mapping[str, WindowRecipe], splits: Mapping[str, SplitRecipe]
    ) -> None:
        """Raise DataError if a source has fewer bars than a set to be built and its splits need."""
        for name, recipe in sets.items():
            path = self.data_root / "bars" / f"{recipe.source}.parquet"
            if self.has_set(name):
                continue
            self.fetch_bars(recipe.source, required=False)
            if path.is_file():
                mine = {n: s for n, s in splits.items() if s.labeled == name}
                refuse_too_few(name, recipe, mine, num_bars(path))

    def remove(self, name: str) -> None:
        """Remove a set or a split that nothing in the data store refers to.

        Whether a run or a model version refers to it is not known here (see `moola.steps.data`).
        Raises DataError if it does not exist or another set or split needs it.
        """
        is_split = name.startswith("splits/")
        path = self.split_path(name) if is_split else self.folder(name)
        if is_split:
            self._root.fetch(f"splits/{path.name}", required=False)
            if not path.is_file():
                raise DataError(f"split {name} does not exist in {self.data_root}")
        users = [u for u in self.names() if u != name and name in self._needs(u)]
        if users:
            raise DataError(
                f"{name} is needed by {', '.join(users[:5])}", remedy="Remove those first"
            )
        self._root.remove(f"splits/{path.name}" if is_split else name)

    def _needs(self, name: str) -> tuple[str, ...]:
        """Return the sets and splits that one is made of."""
        kind = name.partition("/")[0]
        if kind == "splits":
            return (self.read_split(name).labeled,)
        if kind == "synthetic_cache":
            synthetic = self.load_synthetic(name)
            return (synthetic.labeled, f"splits/{synthetic.split}")
        return ()

    def build_set(
        self, name: str, recipe: WindowRecipe, *, report: Progress = lambda done, total: None
    ) -> WindowSet:
        """Build one set; if it exists already, check that its recipe is the same and load it.

        `report` is called with the windows done and their number.
        """
        folder = self.folder(name, must_exist=False)
        if not self.has_set(name):
            kind = "labeled_windows" if recipe.num_classes else "unlabeled_windows"
            if not name.startswith(f"{kind}/"):
                raise DataError(f"set {name} has label {recipe.label!r}", limit=f"{kind}/...")
            self._write_set(folder, name, recipe, report)
            self._root.publish(name)
        loaded = self.load_set(name)
        if loaded.recipe != recipe:
            raise DataError(
                f"set {name} exists with another recipe: {_differences(loaded.recipe, recipe)}",
                remedy="Sets are immutable: use a new name, or `moola data remove` it first",
            )
        return loaded

    def import_set(
        self, name: str, windows: Path, rows: Path | None, options: ImportOptions
    ) -> WindowSet:
        """Store windows as they are (see `moola.data.imported`) and load them again.

        Raises DataError if the name is taken or the windows cannot be used.
        """
        kind = "labeled_windows" if options.class_names else "unlabeled_windows"
        name = qualified(name, kind)
        folder = self.folder(name, must_exist=False)
        if not name.startswith(f"{kind}/"):
            raise DataError(
                f"set {name} has {len(options.class_names)} classes", limit=f"{kind}/..."
            )
        if self.has_set(name):
            raise DataError(f"set {name} exists", remedy="Sets are immutable: use a new name")
        with atomic_folder(folder, overwrite=self._root.is_cache) as temporary:
            write_imported_set(temporary, name, windows, rows, options)
            read_set(name, temporary)
        self._root.publish(name)
        return self.load_set(name)

    def _write_set(self, folder: Path, name: str, recipe: WindowRecipe, report: Progress) -> None:
        """Write a set from a bar file or, where the source is a folder of them, in chunks."""
        partitions = self._root.partitions(f"bars/{recipe.source}")
        if partitions is not None:
            with atomic_folder(folder, overwrite=self._root.is_cache) as temporary:
                write_partitioned_set(temporary, name, recipe, *partitions, report=report)
            return
        bars = self.load_bars(recipe.source)
        if recipe.label_file:
            self._root.fetch(f"labels/{recipe.label_file}", required=False)
        with atomic_folder(folder, overwrite=self._root.is_cache) as temporary:
            write_set(temporary, name, recipe, bars, self.data_root / "labels", report=report)

    def build_split(self, name: str, recipe: SplitRecipe) -> Split | WalkForward:
        """Build one split file; if it exists already, check that its content is the same."""
        labeled = self.load_set(recipe.labeled)
        make = forward_chain if recipe.strategy == "forward_chaining" else walk_forward
        split: Split | WalkForward = make(name, recipe, labeled.times, labeled.sha256)
        self.save_split(split)
        return split

    def save_split(self, split: Split | WalkForward) -> None:
        """Write a split file under its name, if it passes its audit.

        Raises DataError if other content is stored there, and AuditError, with nothing stored, for
        a split that `verify` would refuse.
        """
        path = self.split_path(split.name)
        self._root.fetch(f"splits/{path.name}", required=False)
        if not path.exists():
            for trail in audit_any_split(self, split):
                trail.require()
        write_split(path, split, user_name())
        self._root.publish(f"splits/{path.name}")

    def build_synthetic(
        self,
        name: str,
        labeled: WindowSet,
        split: Split,
        augment: Augmenter,
        *,
        config: Mapping[str, Any],
        ratio: float = 0.5,
        random_state: int = 0,
        require_quality: bool = True,
    ) -> tuple[SyntheticSet, list[Check]]:
        """Make, test and store synthetic windows of a split's train part.

        Nothing is stored, and AuditError is raised, where a check fails; with
        ``require_quality=False`` the set is stored for a look at it, and refused at load. A name
        that is taken raises DataError.
        """
        name = qualified(name, "synthetic_cache")
        folder = self.folder(name, must_exist=False)
        if self.has_set(name):
            raise DataError(f"set {name} exists", remedy="Sets are immutable: use a new name")
        synthetic = make_synthetic(
            labeled, split, augment, name=name, config=config, ratio=ratio,
            random_state=random_state,
        )  # fmt: skip
        checks, _ = synthetic_checks(synthetic, labeled, split)
        if require_quality:
            AuditTrail(checks=tuple(checks), facts={"split": name}).require()
        with atomic_folder(folder, overwrite=self._root.is_cache) as temporary:
            write_synthetic(temporary, synthetic)
        self._root.publish(name)
        return self.load_synthetic(name), checks

    def _synthetic(self, include: bool, version: str | None) -> SyntheticSet | None:
        if not include:
            return None
        if not version:
            names = [n for n in self.names() if n.startswith("synthetic_cache/")]
            raise DataError(
                "a synthetic set is asked for, but none is named",
                limit=f"one of: {', '.join(names) or 'none made yet'}",
            )
        return self.load_synthetic(version)


def _differences(stored: WindowRecipe, asked: WindowRecipe) -> str:
    """Say which fields of two recipes differ."""
    names = [
        f.name for f in fields(WindowRecipe) if getattr(stored, f.name) != getattr(asked, f.name)
    ]
    return "; ".join(f"{n} {getattr(stored, n)!r}, asked {getattr(asked, n)!r}" for n in names)
