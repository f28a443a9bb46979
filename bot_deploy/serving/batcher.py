"""Joins the crops of requests that run at the same time to batches."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bot_deploy.errors import RunError, UnavailableError

if TYPE_CHECKING:
    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.images import Pixels

    from .metrics import Metrics

MAX_WAITING = 1024  # crops; more would only wait for longer


class BusyError(RunError):
    """Too many crops wait already."""


class _Work(NamedTuple):
    crop: Pixels  # of the model's size
    answer: Future[Vectors]


class Batcher:
    """One thread that embeds: while a batch runs, the crops of other requests become the next batch.

    So a single request waits for nobody, and many at once fill the batches.
    """

    def __init__(self, embedder: Embedder, metrics: Metrics) -> None:
        self._embedder, self._metrics = embedder, metrics
        self._waiting: queue.Queue[_Work | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="embedding", daemon=True)
        self._thread.start()

    def submit(self, crop: Pixels) -> Future[Vectors]:
        """The coming unit vector [D] of `crop` uint8 [height, width, 3] of the model's size.

        Raises:
            BusyError: too many crops wait.
        """
        answer: Future[Vectors] = Future()
        try:
            self._waiting.put_nowait(_Work(crop, answer))
        except queue.Full:
            raise BusyError(f"{MAX_WAITING} images wait already; try again later") from None
        return answer

    @property
    def waiting(self) -> int:
        """The number of crops that wait for the next batch."""
        return self._waiting.qsize()

    def close(self) -> None:
        """Returns when all crops are embedded."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, ended = [first], False
            while len(batch) < self._embedder.batch_size and not ended:
                try:
                    work = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if work is None:
                    ended = True
                else:
                    batch.append(work)
            self._embed([work for work in batch if work.answer.set_running_or_notify_cancel()])
            if ended:
                return

    def _embed(self, batch: list[_Work]) -> None:
        """Answers every crop of `batch`; where the batch fails, each on its own, so that one spoils no other."""
        if not batch:
            return
        try:
            vectors = self._embedder.run(np.stack([work.crop for work in batch]))
        except Exception as error:  # noqa: BLE001 - it belongs to the request
            for work in batch:
                if len(batch) == 1 or isinstance(error, UnavailableError):  # each would wait for the server again
                    work.answer.set_exception(error)
                else:
                    self._embed([work])
            return
        self._metrics.count_batch(len(batch))
        for work, vector in zip(batch, vectors, strict=True):
            work.answer.set_result(vector)
