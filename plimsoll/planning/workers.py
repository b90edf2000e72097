"""Run a function over a list of items, on this machine or on many, with the same results.

Results come back in the order of the items whatever the number of workers, so a search is the
same at any ``--jobs``. One machine: a process pool, or this process for one job. Many: Ray
(extra ``cluster``), on the cluster that ``ray.init`` finds, or a local one. Work is pure: the
function and its items are pickled, nothing is shared. Leaves out: retries and stragglers, which
a pure function on one machine does not need and Ray handles itself.
"""

import contextlib
import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

from plimsoll.spec.errors import SpecError, UnsupportedError

__all__ = ["PoolWorkers", "RayWorkers", "SerialWorkers", "Workers", "open_workers"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(Protocol):
    """Something that maps a function over items; a context manager that frees what it holds."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Results in the order of ``items``, each as soon as it and all before it are done."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class SerialWorkers:
    """This process, one item after the other."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """See ``Workers``."""
        return map(function, items)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class PoolWorkers:
    """``num_jobs`` processes of this machine, started at the first use.

    Leaving after an error or an interrupt ends the processes at once: what they still compute
    is of no use to anybody.
    """

    def __init__(self, num_jobs: int) -> None:
        self._num_jobs = num_jobs
        self._pool: ProcessPoolExecutor | None = None
        self._before: set[int] = set()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """See ``Workers``."""
        if len(items) < 2:
            return map(function, items)
        if self._pool is None:
            self._before = {id(child) for child in multiprocessing.active_children()}
            start = "fork" if sys.platform == "linux" else "spawn"
            self._pool = ProcessPoolExecutor(
                self._num_jobs, mp_context=multiprocessing.get_context(start)
            )
        return self._pool.map(function, items)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is None:
            return
        if error is not None:
            for child in multiprocessing.active_children():
                if id(child) not in self._before:
                    child.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)


class RayWorkers:
    """The workers of a Ray cluster; a local one of ``num_jobs`` processes if none is found.

    ``address`` is a Ray address; "" starts or joins as ``ray.init`` decides. A cluster that was
    connected before stays connected afterwards.
    """

    def __init__(self, num_jobs: int, *, address: str = "") -> None:
        try:
            import ray
        except ImportError:
            raise UnsupportedError(
                "Ray is not installed; install the extra: pip install 'plimsoll[cluster]'"
            ) from None
        self._ray: Any = ray
        self._owned = not ray.is_initialized()
        if self._owned:
            if address:
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
            else:
                ray.init(
                    num_cpus=num_jobs,
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """See ``Workers``."""
        remote = self._ray.remote(num_cpus=1)(_call)
        shared = self._ray.put(function)
        waiting = [remote.remote(shared, item) for item in items]
        return (self._ray.get(reference) for reference in waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._owned:
            with contextlib.suppress(RuntimeError):
                self._ray.shutdown()


def open_workers(
    num_jobs: int, *, backend: Literal["processes", "ray"] = "processes", address: str = ""
) -> Workers:
    """Workers for ``num_jobs`` at a time; use as a context manager.

    Raises:
        SpecError: fewer than one job.
        UnsupportedError: Ray asked for and not installed.
    """
    if num_jobs < 1:
        raise SpecError(f"jobs = {num_jobs}; expected 1 or more")
    if backend == "ray":
        return RayWorkers(num_jobs, address=address)
    return SerialWorkers() if num_jobs == 1 else PoolWorkers(num_jobs)
