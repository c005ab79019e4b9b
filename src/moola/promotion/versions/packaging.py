"""The border: a version's folder is exactly Moola's own packaging around weights, or it is refused.

A version is data, and a stranger's: whoever may register a model may write any file into it. So
before anything in it is loaded, signed, promoted, served or scored, every file is held against what
Moola writes. What is not known is refused. No code of the version is run, no link followed, no path
that it names opened, and nothing but the files named here is read.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from moola.config import packaging
from moola.errors import MoolaError, PromotionRefused
from moola.hashing import sha256_file
from moola.promotion.evidence.attestation import Evidence
from moola.promotion.versions.classes import require_judged_classes
from moola.promotion.versions.compiled import plain_caches
from moola.promotion.versions.packaging_files import (
    AGAIN,
    is_cache,
    known_entries,
    opened,
    read_bounded,
    refused,
    regular_files,
)
from moola.promotion.versions.packaging_words import check_words
from moola.training.stored_config import StoredVersion, read_stored
from moola.training.stored_tensors import check_header, layout_of


@dataclass(frozen=True, kw_only=True)
class Packaging:
    """A folder that is Moola's own packaging: what its configuration states, and its checkpoint."""

    stored: StoredVersion
    checkpoint: Path


def check_packaging(folder: Path) -> Packaging:
    """Hold a version's folder against what Moola writes.

    Parameters
    ----------
    folder
        A private copy of the version's files; nobody else may write there.

    Returns
    -------
    Packaging
        What the version states.

    Raises
    ------
    PromotionRefused
        On the first thing that Moola does not write. The sentence names no file that is not
        Moola's, because a version's address may point at any folder.
    """
    root = Path(folder)
    try:
        _check_entries(root)
        return _check_files(root)
    except PromotionRefused:
        raise
    except MoolaError as error:
        raise PromotionRefused(error.problem, limit=error.limit, remedy=AGAIN) from None
    except (OSError, ValueError, RecursionError, MemoryError, yaml.YAMLError) as error:
        problem = f"the version's files cannot be read ({type(error).__name__})"
        raise PromotionRefused(problem, remedy=AGAIN) from None


def packaging_findings(folder: Path, evidence: Evidence, *, data_root: Path | None) -> list[str]:
    """Return what is wrong with the files of a version that was promoted; empty if nothing is.

    Parameters
    ----------
    folder
        A private copy of its files.
    evidence
        Verified evidence of its promotion.
    data_root
        Root of the data store, which knows the classes of a labelled set; None: there is none.

    Returns
    -------
    list of str
        Sentences.
    """
    try:
        stored = check_packaging(folder).stored
        require_judged_classes(stored.class_names, evidence.data, data_root=data_root)
    except PromotionRefused as refusal:
        return [str(refusal).rstrip(".")]
    return []


def _check_files(root: Path) -> Packaging:
    code = _bytes(root, packaging.MODEL_CODE)
    sha256 = hashlib.sha256(code).hexdigest()
    if sha256 not in packaging.MODEL_CODE_RELEASES:
        raise refused(
            f"{packaging.MODEL_CODE} has SHA-256 {sha256[:12]}",
            "the model code of a release of Moola",
        )
    stored = read_stored(_bytes(root, f"{packaging.CHECKPOINT_FOLDER}/config.json"))
    check_words(root, stored)
    checkpoint = root / packaging.CHECKPOINT_FOLDER
    _check_weights(checkpoint / "model.safetensors", stored)
    return Packaging(stored=stored, checkpoint=checkpoint)


def _check_weights(path: Path, stored: StoredVersion) -> None:
    estimator, num_classes = stored.estimator(), len(stored.class_names)
    if stored.state:
        layout = estimator.layout(num_classes, stored.state)
    else:
        layout = layout_of(estimator, num_classes)
    with opened(path) as file:
        check_header(file, os.fstat(file.fileno()).st_size, layout)
    if (digest := sha256_file(path)) != stored.weights_sha256:
        limit = f"{stored.weights_sha256[:12]}, as config.json states"
        raise refused(f"model.safetensors has SHA-256 {digest[:12]}", limit)
    if stored.state:  # some of its arrays are indices into others
        try:
            type(estimator).load(path.parent)
        except MoolaError as error:
            problem = error.problem.replace(f"{path.parent}{os.sep}", "")
            raise refused(problem, error.limit or "arrays as training writes them") from None


def _bytes(root: Path, name: str) -> bytes:
    return read_bounded(root / name, packaging.FILES[name])


def _check_entries(root: Path) -> None:
    names = known_entries(regular_files(root))
    for name in names:
        most = packaging.FILES.get(name, packaging.OPTIONAL_FILE_BYTES)
        if (size := (root / name).lstat().st_size) > most:
            raise refused(f"{name} has {size} bytes", f"at most {most}")
    caches = {name for name in names if is_cache(name)}
    if caches and not caches <= plain_caches(root):
        limit = f"what {packaging.MODEL_CODE} compiles to"
        raise refused("it holds compiled code of another source", limit)
