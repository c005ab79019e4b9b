"""Whether a version's class names are those it was judged with: the set's, in its order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moola.data.labels import CLASS_NAMES, class_names
from moola.data.store.data_store import DataStore
from moola.errors import MoolaError, PromotionRefused

CLASSES = "class_names"  # key of the evidence's data
_AGAIN = "Train it again with `moola train`"


def require_classes(stated: tuple[str, ...], wanted: tuple[str, ...], whose: str) -> None:
    """Refuse a version unless its classes are those of a labelled set, in their order.

    Raises PromotionRefused otherwise: its answers would be read as other classes.
    """
    if tuple(stated) != tuple(wanted):
        raise PromotionRefused(
            f"the version's classes are {', '.join(stated)}",
            limit=f"{', '.join(wanted)}, in this order, as {whose} has them",
            remedy=_AGAIN,
        )


def require_judged_classes(
    stated: tuple[str, ...], data: Mapping[str, Any], *, data_root: Path | None
) -> None:
    """Refuse a version whose class names are not those its evidence was signed for.

    Evidence of today names the classes. Of evidence that was signed before it did, the labelled set
    is asked, if it lies here under the digest that is signed; if it does not, the names must be
    those of one of Moola's own rules.

    Parameters
    ----------
    stated
        The version's class names.
    data
        `data` of verified evidence.
    data_root
        Root of the data store; None: there is none here.

    Raises
    ------
    PromotionRefused
        If they differ, or nothing here says what they should be.
    """
    signed = data.get(CLASSES)
    if isinstance(signed, list):
        require_classes(stated, tuple(map(str, signed)), "its signed evidence")
        return
    set_classes = None if data_root is None else _of_set(data, data_root)
    if set_classes is not None:
        require_classes(stated, set_classes, str(data.get("labeled")))
    elif tuple(stated) not in CLASS_NAMES.values():
        raise PromotionRefused(
            f"nothing here vouches for the version's classes {', '.join(stated)}",
            limit="evidence that names them, or the labelled set under the digest that is signed",
            remedy="Ask again where the labelled set lies, or train and evaluate the model again",
        )


def _of_set(data: Mapping[str, Any], data_root: Path) -> tuple[str, ...] | None:
    try:
        windows = DataStore(data_root).load_set(str(data.get("labeled")))
    except (MoolaError, OSError):
        return None
    return class_names(windows.recipe) if windows.sha256 == data.get("labeled_sha256") else None
