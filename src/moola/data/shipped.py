"""The bars that ship with Moola: in `data/bars` of a checkout, inside the installed package."""

from __future__ import annotations

import shutil
from pathlib import Path

from moola.data.store.storage import open_root
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
        files = tuple(sorted(folder.glob("*.parquet")))
        if files:
            return files
    raise DataError("the bars that ship with Moola are missing", remedy="Install Moola again")


def copy_shipped_bars(data_root: Path | str) -> tuple[str, ...]:
    """Copy the shipped bars into ``bars/`` of a data store and return those it had to copy.

    A file of the same content is left alone.

    Parameters
    ----------
    data_root
        A data store's folder or URL; ``bars/`` is made where it is missing.

    Returns
    -------
    tuple of str
        Names of the files copied now.

    Raises
    ------
    DataError
        If a file of the same name but other content is there; nothing is copied then. Also if
        the URL cannot be used.
    """
    root = open_root(data_root)
    missing = []
    for source in shipped_bars():
        path = f"bars/{source.name}"
        if not root.holds(path):
            missing.append((source, path))
            continue
        root.fetch(path)
        if sha256_file(root.folder / path) != sha256_file(source):
            raise DataError(
                f"{data_root}/{path} is not the file that ships with Moola",
                remedy="Move it away, or choose another --data-root",
            )
    for source, path in missing:
        with atomic_file(root.folder / path) as draft:
            shutil.copyfile(source, draft)
        root.publish(path)
    return tuple(source.name for source, _ in missing)
