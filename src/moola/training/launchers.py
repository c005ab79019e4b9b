"""Where trainings run: processes of this machine, or Ray tasks of this machine or a cluster.

A launcher runs one function over many tasks and hands each result back as it is done. It stores
nothing: whoever asked for the results keeps them, so every launcher fills the same cache. Each
task computes in one thread, so that a result depends neither on the launcher nor on how many cores
a machine has.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from moola.config.base import check_choice, check_count, check_range
from moola.errors import ConfigError, LauncherError, MoolaError, one_line

LAUNCHERS = ("local", "ray")
_ANSWER_SECONDS = 3.0
_KEPT = "Finished trainings are kept: run the same command again"


@dataclass(frozen=True, kw_only=True)
class Done:
    """One finished task: its place in the sequence, its result, and where and how long it ran."""

    index: int
    result: Any
    host: str
    pid: int
    seconds: float


class Launcher(Protocol):
    """Runs ``function(shared, task)`` for every task."""

    def session(self) -> AbstractContextManager[None]:
        """Hold the workers ready between several calls of `map`."""
        ...

    def map(
        self, function: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any]
    ) -> Iterator[Done]:
        """Yield every task as it is done, in any order.

        Parameters
        ----------
        function
            Module-level, so that a worker can import it.
        shared
            What all tasks need; it is sent to a worker once, not with every task.
        tasks
            Small values, the longest first.

        Returns
        -------
        iterator of Done
            As many as there are tasks.

        Raises
        ------
        LauncherError
            If a worker died and its task cannot be run again.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class LocalLauncher:
    """Worker processes of this machine (joblib); one job runs in this process."""

    jobs: int = 1

    def __post_init__(self) -> None:
        check_count("jobs", self.jobs)

    def session(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: joblib keeps its processes by itself."""
        return nullcontext()

    def map(
        self, function: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any]
    ) -> Iterator[Done]:
        """Run tasks in processes; the death of one is a LauncherError."""
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        pool = Parallel(n_jobs=self.jobs, return_as="generator_unordered")
        try:
            yield from pool(delayed(run_one)(function, shared, i, t) for i, t in enumerate(tasks))
        except TerminatedWorkerError as error:
            raise LauncherError(f"a worker process died: {one_line(error)}", remedy=_KEPT) from None


@dataclass(frozen=True, kw_only=True)
class RayLauncher:
    """Ray tasks; a task whose worker or node dies is run again elsewhere.

    Attributes
    ----------
    address
        Of a running cluster, ``host:6379``, ``auto`` or ``ray://host:10001``; None starts Ray on
        this machine for as long as the tasks take.
    jobs
        Tasks at the same time; 0: as many as the cluster has room for.
    cpus_per_task, gpus_per_task
        Shares a task asks for; 0.25 GPU lets four tasks share one.
    retries
        How often a task is run again after its worker died.
    """

    address: str | None = None
    jobs: int = 0
    cpus_per_task: float = 1.0
    gpus_per_task: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        check_count("jobs", self.jobs, low=0)
        check_count("retries", self.retries, low=0)
        check_range("cpus_per_task", self.cpus_per_task, low=0.0, open_low=True)
        check_range("gpus_per_task", self.gpus_per_task, low=0.0)

    def map(
        self, function: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any]
    ) -> Iterator[Done]:
        """Run tasks on Ray; what a task raises is raised here and the rest is cancelled."""
        if not tasks:
            return
        with self.session():
            import ray

            run = ray.remote(
                num_cpus=self.cpus_per_task, num_gpus=self.gpus_per_task, max_retries=self.retries
            )(run_one)
            reference = ray.put(shared)
            waiting = iter(enumerate(tasks))
            room = self.jobs or len(tasks)
            running = [run.remote(function, reference, *task) for task in islice(waiting, room)]
            try:
                while running:
                    finished, running = ray.wait(running, num_returns=1)
                    running += [
                        run.remote(function, reference, *task) for task in islice(waiting, 1)
                    ]
                    yield self._result(ray, finished[0])
            finally:
                for task in running:
                    ray.cancel(task, force=True)

    def _result(self, ray: Any, task: Any) -> Done:
        try:
            outcome: Done = ray.get(task)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, MoolaError):
                raise error.cause from None
            if not isinstance(error.cause, ray.exceptions.RaySystemError):
                raise
            reason = " ".join(str(error.cause).partition("traceback:")[0].split())
            raise LauncherError(
                f"a Ray worker cannot start the task: {reason[:200]}",
                remedy="Install the same Moola on every node of the cluster",
            ) from None
        except ray.exceptions.RayError as error:
            raise LauncherError(
                f"a Ray task was lost: {one_line(error)}",
                limit=f"at most {self.retries} deaths of its worker",
                remedy=_KEPT,
            ) from None
        return outcome

    @contextmanager
    def session(self) -> Iterator[None]:
        """Connect to the cluster, or start Ray on this machine, and leave it at the end."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise LauncherError(
                "the launcher is 'ray', but Ray is not installed",
                remedy="Install it with `pip install 'moola-ml[ray]'`",
            ) from None
        if ray.is_initialized():
            yield
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if self.address is None:
            options |= {"address": "local", "include_dashboard": False}
            if self.jobs:
                options["num_cpus"] = max(1, round(self.jobs * self.cpus_per_task))
        else:
            _require_answer(self.address)
            options["address"] = self.address
        try:
            ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise _unreachable(self.address, one_line(error)) from None
        try:
            yield
        finally:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Ask the address whether anything listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdigit():
        raise _unreachable(address, "it is not auto, host:port or ray://host:port")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str | None, reason: str) -> LauncherError:
    return LauncherError(
        f"Ray at {address or 'this machine'} cannot be used: {reason}",
        remedy="Give --address host:6379 of a node where `ray start --head` ran, or none",
    )


def open_launcher(
    name: str, *, jobs: int = 0, address: str | None = None, gpus_per_task: float = 0.0
) -> Launcher:
    """Return the launcher that a command's options describe; `jobs` 0 leaves the number to it.

    Parameters
    ----------
    name
        ``local`` or ``ray``.
    jobs
        Tasks at the same time.
    address
        Of a running Ray cluster.
    gpus_per_task
        Share of a GPU a Ray task asks for.

    Returns
    -------
    Launcher
        Not connected yet.

    Raises
    ------
    ConfigError
        For an unknown name, or an option the local launcher does not have.
    """
    check_choice("launcher", name, LAUNCHERS)
    if name == "ray":
        return RayLauncher(address=address, jobs=jobs, gpus_per_task=gpus_per_task)
    if address is not None or gpus_per_task:
        raise ConfigError(
            "--address and --gpus-per-task are options of Ray, but the launcher is 'local'",
            remedy="Add --launcher ray",
        )
    return LocalLauncher(jobs=jobs or 1)


def run_one(function: Callable[[Any, Any], Any], shared: Any, index: int, task: Any) -> Done:
    """Run one task in one thread, in whatever process this is."""
    start = time.perf_counter()
    with _one_thread():
        result = function(shared, task)
    return Done(
        index=index,
        result=result,
        host=socket.gethostname(),
        pid=os.getpid(),
        seconds=time.perf_counter() - start,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)
