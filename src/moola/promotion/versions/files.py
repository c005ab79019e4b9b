"""What can be told of a version's files without reading them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

Fingerprint = tuple[tuple[str, int, int, int, int], ...]


def local_folder(address: str) -> Path | None:
    """Return the folder an address names on this machine, None for any other place."""
    parts = urlsplit(address)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return Path(address) if parts.scheme == "" and address else None


def odd_files(folder: Path) -> list[str]:
    """Return what lies below a folder and is no readable file or folder, one phrase each.

    Nothing is opened: opening a named pipe may never return.
    """
    odd = []
    for path, status in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if stat.S_ISLNK(status.st_mode):
            odd.append(f"{name!a} is a symbolic link")
        elif not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            odd.append(f"{name!a} is neither file nor folder")
        elif not os.access(path, os.R_OK):
            odd.append(f"{name!a} cannot be read")
    return odd


def fingerprint(folder: Path) -> Fingerprint:
    """Return path, size, inode and times of change of everything below a folder.

    Whoever changes a file changes this, unless they set the machine's clock or write to its disk
    past the file system.
    """
    return tuple(
        (p.as_posix(), s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for p, s in _walk(folder)
    )


def _walk(folder: Path) -> list[tuple[Path, os.stat_result]]:
    paths = []
    waiting = [folder]
    while waiting:
        try:
            children = sorted(os.scandir(waiting.pop()), key=lambda child: child.name)
        except OSError:
            continue
        for child in children:
            path = Path(child.path)
            paths.append((path, child.stat(follow_symlinks=False)))
            if child.is_dir(follow_symlinks=False):
                waiting.append(path)
    return paths
