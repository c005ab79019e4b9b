"""The bars that ship with Moola: in `data/bars` of a checkout, inside the installed package."""

from __future__ import annotations

import shutil
from pathlib import Path

from moola.errors import DataError
from moola.hashing import atomic_file, sha256_file

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_bars() -> tuple[Path, ...]:
    """Return the bar files that ship with Moola, by name.

    Returns
    -------
    tuple of Path
        At least one, sorted.

    Raises
    ------
    DataError
        If they are neither in the installed package nor in the checkout it runs from.
    """
    for folder in (_PACKAGE / "shipped_bars", _PACKAGE.parents[1] / "data" / "bars"):
        found = tuple(sorted(folder.glob("*.parquet")))
        if found:
            return found
    raise DataError("the bars that ship with Moola are missing", remedy="Install Moola again")


def copy_shipped_bars(data_root: Path | str) -> tuple[Path, ...]:
    """Copy the shipped bars into ``bars/`` below a local root and return those it had to copy.

    A file of the same content is left alone.

    Parameters
    ----------
    data_root
        A local registry; ``bars/`` is made where it is missing.

    Returns
    -------
    tuple of Path
        The copies made now.

    Raises
    ------
    DataError
        If a file of the same name but other content stands there; nothing is copied then.
    """
    folder = Path(data_root) / "bars"
    targets = {source: folder / source.name for source in shipped_bars()}
    for source, target in targets.items():
        if target.exists() and sha256_file(target) != sha256_file(source):
            raise DataError(
                f"{target} is not the file that ships with Moola",
                remedy="Move it away, or choose another --data-root",
            )
    missing = {s: t for s, t in targets.items() if not t.exists()}
    for source, target in missing.items():
        with atomic_file(target) as draft:
            shutil.copyfile(source, draft)
    return tuple(missing.values())
