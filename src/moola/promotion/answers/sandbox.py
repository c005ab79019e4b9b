"""A cell for code that came with a version: what it may see, use and leave behind.

``python -m moola.promotion.answers.sandbox '{"module": ..., "scratch": ..., ...}'``

Only the standard library is imported before the walls are up. Where the kernel allows it, the code
runs in namespaces of its own: no network, nobody else's processes, every file system read-only but
for a scratch folder in memory. What could not be cut is told, never passed over: the first line
of the file descriptor `SAID` names the walls.

Three processes: the keeper (outside, ends the cell), the first process of the cell (reaps), and the
one that runs the code.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

NETWORK, PROCESSES, FILES = "network", "processes", "files"
WALLS: Final = (NETWORK, PROCESSES, FILES)

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_NOSUID, _NODEV, _NOEXEC, _REC, _PRIVATE = 2, 4, 8, 16384, 1 << 18
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY = 442, -100, 0x8000, 1
_PDEATHSIG, _CAPBSET_DROP, _NO_NEW_PRIVS, _SUBREAPER = 1, 24, 38, 36
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION = 0x20080522
_LIBC = ctypes.CDLL(None, use_errno=True)


def main(argument: str) -> int:
    """Build the cell, run a module's function in it, and end whatever is left of it."""
    asked = json.loads(argument)
    _prctl(_PDEATHSIG, signal.SIGKILL)
    _prctl(_SUBREAPER, 1)
    walls = _namespaces(os.getuid(), os.getgid())
    first = os.fork()
    if first == 0:
        os._exit(_first_process(asked, walls))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _kill(first))
    _, status = os.waitpid(first, 0)  # in a namespace: not before all of its processes are gone
    _kill_children()
    return _code(status)


def _first_process(asked: Mapping[str, Any], walls: list[str]) -> int:
    _prctl(_PDEATHSIG, signal.SIGKILL)
    if PROCESSES in walls and _mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC) != 0:
        walls.remove(PROCESSES)  # its own /proc is refused: it still sees the others' environment
    if NETWORK in walls and _files_apart(asked["scratch"], asked["hidden"], asked["scratch_mib"]):
        walls.append(FILES)
    _drop_privileges()
    worker = os.fork()
    if worker == 0:
        _prctl(_PDEATHSIG, signal.SIGKILL)
        os.write(asked["said"], json.dumps({"walls": walls}).encode() + b"\n")
        os.chdir(asked["scratch"])
        try:
            import_module(asked["module"]).main(asked)
        except BaseException:  # the worker tells its own errors; this is the last resort
            os._exit(70)
        os._exit(0)
    while True:  # the first process inherits orphans and has to reap them
        ended, status = os.wait()
        if ended == worker:
            return _code(status)


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def limit(*, memory_mib: int, seconds: int, file_mib: int, processes: int) -> None:
    """Set the limits of this process and those it starts; a hard limit already lower stays.

    Memory is what the process writes to, on top of what it has now; libraries that are mapped from
    files do not count.
    """
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[5]) * resource.getpagesize()
    for kind, value in (
        (resource.RLIMIT_DATA, used + (memory_mib << 20)),
        (resource.RLIMIT_CPU, seconds * (os.cpu_count() or 1)),
        (resource.RLIMIT_FSIZE, file_mib << 20),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (lowest, lowest))


def _namespaces(uid: int, gid: int) -> list[str]:
    """Enter namespaces of our own; an empty list where the kernel does not allow any."""
    if _LIBC.unshare(_NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC) != 0:
        return []
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with suppress(OSError), open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    return [NETWORK, PROCESSES]


def _files_apart(scratch: str, hidden: list[str], scratch_mib: int) -> bool:
    """Make every file system read-only, the scratch folder a small one in memory."""
    if _mount("none", "/", None, _REC | _PRIVATE) != 0:
        return False
    for path in hidden:
        where = os.path.realpath(path)
        if os.path.isdir(where):
            shut = _mount("tmpfs", where, "tmpfs", _NOSUID | _NODEV, "size=4k,mode=0755")
        else:
            shut = _mount("/dev/null", where, None, 4096) if os.path.exists(where) else 0
        if shut != 0:
            return False
    words = (ctypes.c_uint64 * 4)(_ATTR_RDONLY, 0, 0, 0)
    changed = _LIBC.syscall(
        _MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, words, ctypes.sizeof(words)
    )
    size = f"size={scratch_mib}m,nr_inodes=10000,mode=0700"
    _mount("tmpfs", "/dev/shm", "tmpfs", _NOSUID | _NODEV, size)
    return changed == 0 and _mount("tmpfs", scratch, "tmpfs", _NOSUID | _NODEV, size) == 0


def _drop_privileges() -> None:
    """Give up what the first process of a namespace may do in it, for good."""
    _prctl(_NO_NEW_PRIVS, 1)
    for capability in range(_LAST_CAPABILITY + 1):
        _prctl(_CAPBSET_DROP, capability)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    _LIBC.capset(header, (ctypes.c_uint32 * 6)())


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> int:
    return int(
        _LIBC.mount(
            source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags),
            data.encode(),
        )
    )  # fmt: skip


def _prctl(option: int, value: int) -> None:
    _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _kill_children() -> None:
    """End what is left where no namespace ends it: orphans become the keeper's children."""
    me = os.getpid()
    while True:
        with suppress(FileNotFoundError), open(f"/proc/{me}/task/{me}/children") as file:
            for child in file.read().split():
                _kill(int(child))
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
