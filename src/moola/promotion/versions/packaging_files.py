"""Files of a stranger's folder: which may be there, and how they are read."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from moola.config import packaging
from moola.errors import PromotionRefused

AGAIN = "Register the model again with `moola train`, which writes the files itself"


def known_entries(names: list[str], files: Mapping[str, int] = packaging.FILES) -> list[str]:
    """Return the paths, as slashes part them, of a listing that must be a version's files.

    Parameters
    ----------
    names
        Relative paths of regular files.
    files
        Those that must be there.

    Returns
    -------
    list of str
        Those to copy, in order.

    Raises
    ------
    PromotionRefused
        If one that Moola writes is absent, or there is any other.
    """
    caches = [n for n in names if is_cache(n)] if files is packaging.FILES else []
    others = set(names) - set(files) - set(caches)
    others -= {packaging.LOOKED_UP} if files is packaging.FILES else set()
    if others or len(caches) > packaging.MOST_CACHED:
        raise refused(
            f"{len(others) or len(caches)} of its files are none that Moola writes",
            f"{', '.join(files)} and no other",
        )
    if absent := sorted(set(files) - set(names)):
        raise refused(f"it lacks {', '.join(absent)}", "all files that Moola writes")
    return sorted(names)


def is_cache(name: str) -> bool:
    """Return whether a path is that of the model code as Python compiled it."""
    stem = packaging.MODEL_CODE.removesuffix(".py")
    return re.fullmatch(rf"{packaging.CACHE}/{stem}\.cpython-[0-9]{{2,4}}\.pyc", name) is not None


def regular_files(root: Path) -> list[str]:
    """Return the relative paths of all files below a folder on this machine.

    Raises PromotionRefused for a link, a pipe, a device, a folder that Moola does not make, or more
    entries than a version can have; it stops there.
    """
    most = len(packaging.FILES) + len(packaging.FOLDERS) + packaging.MOST_CACHED + 2
    names: list[str] = []
    waiting, num = [""], 0
    while waiting:
        below = waiting.pop()
        with os.scandir(root / below) as entries:
            for entry in entries:
                num += 1
                if num > most:
                    raise refused("the version holds too many files", f"at most {most} entries")
                name = f"{below}/{entry.name}".lstrip("/")
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode) and name in (*packaging.FOLDERS, packaging.CACHE):
                    waiting.append(name)
                elif stat.S_ISREG(mode):
                    names.append(name)
                else:
                    raise refused(
                        "the version holds a link, a pipe, a device or a folder that Moola does "
                        "not make",
                        "regular files in Moola's own folders",
                    )
    return names


def read_bounded(path: Path, most: int) -> bytes:
    """Return a regular file's bytes; raises PromotionRefused if there are more than `most`."""
    with opened(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise refused(f"{path.name} has more than {most} bytes", f"at most {most}")
    return data


@contextmanager
def opened(path: Path, *, links: bool = False) -> Iterator[BinaryIO]:
    """Open a regular file and nothing else: no link is followed, no pipe or device waited for.

    A file under several names is let through with `links` only: a store may be kept that way.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode) or (state.st_nlink != 1 and not links):
            raise refused(f"{path.name} is not a file of its own", "a regular file, linked once")
        yield file


def refused(problem: str, limit: str) -> PromotionRefused:
    """Return the refusal of a version whose files are not Moola's."""
    return PromotionRefused(problem, limit=limit, remedy=AGAIN)
