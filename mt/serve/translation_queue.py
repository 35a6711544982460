"""A queue of requests, and the thread that translates them in batches.

The thread is the only one that uses the models. It translates sentences of several requests in one
batch, which takes less time than one batch for each request.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from mt.decoding.segment_search import BatchedSearch, SourceSegment
from mt.decoding.segmentation import TextPart, join_translations
from mt.decoding.translation import Translation
from mt.errors import MtError
from mt.serve.models import ServedModel

logger = logging.getLogger(__name__)

BATCH_CHARS = 4000  # characters that are translated at once
# Each part of a line counts as so many characters more, because a short part takes time too.
EXTRA_CHARS_PER_PART = 20

# Makes the answer to a request from the translations of its lines, each list best first.
Finish = Callable[[list[list[Translation]]], Any]


class QueueFullError(Exception):
    """Too many characters are waiting to be translated."""


class QueueClosedError(Exception):
    """The server is shutting down and takes no more requests."""


class WaitingPart(NamedTuple):
    """A sentence, or another part of a line, that waits to be translated."""

    line: int
    part_index: int  # among the parts of its line
    part: TextPart

    @property
    def cost(self) -> int:
        """How many of the BATCH_CHARS characters of a batch the part takes."""
        return len(self.part.text) + EXTRA_CHARS_PER_PART


@dataclass(eq=False)
class Job:
    """A request: lines to translate by one model, and what to do with their translations.

    The future gets what `finish` returns. When it is cancelled, the job is dropped.
    """

    model: ServedModel
    lines: Sequence[str]
    num_translations: int
    finish: Finish
    future: "Future[Any]" = field(default_factory=Future)
    is_over: bool = False  # answered, failed or dropped; set by the thread of the queue

    @property
    def num_chars(self) -> int:
        """The number of characters, plus one for each line and one for the job."""
        return sum(len(line) + 1 for line in self.lines) + 1

    def can_share_batch(self, other: "Job") -> bool:
        """Return whether sentences of both jobs can be in one batch.

        Their target languages can differ, because each source has the tag of its own.
        """
        has_same_weights = self.model.name == other.model.name
        return has_same_weights and self.num_translations == other.num_translations


@dataclass(eq=False)
class _StartedJob:
    """A started job: the parts of its lines, and their translations so far."""

    job: Job
    normalized: list[str]
    parts: list[list[TextPart]]  # of each line
    waiting: deque[WaitingPart]
    # By the number of the line and the index of the part.
    results: dict[tuple[int, int], list[Translation]] = field(default_factory=dict)

    @classmethod
    def begin(cls, job: Job) -> Self:
        """Split the lines of a job as its translator does, with the tag of the language."""
        translator = job.model.translator
        prefix = translator.language_prefix(translator.tgt_lang)
        normalized = [translator.src_normalizer(line) for line in job.lines]
        parts = [translator.splitter.split(text, prefix=prefix) for text in normalized]
        waiting = deque(
            WaitingPart(line, index, part)
            for line, own_parts in enumerate(parts)
            for index, part in enumerate(own_parts)
        )
        return cls(job, normalized, parts, waiting)

    @property
    def is_translated(self) -> bool:
        """Whether all parts are translated."""
        return len(self.results) == sum(len(own_parts) for own_parts in self.parts)

    def n_best_lists(self) -> list[list[Translation]]:
        """Return the translations of each line, joined from those of its parts."""
        return [
            join_translations(
                text, own_parts, [self.results[line, index] for index in range(len(own_parts))]
            )
            for line, (text, own_parts) in enumerate(zip(self.normalized, self.parts, strict=True))
        ]


class TranslationQueue:
    """Translates the lines of many requests on one thread.

    A batch takes one sentence of each waiting request in turn, until it has BATCH_CHARS characters.
    Then the requests of this batch go to the end of the queue. Requests to different runs, or with
    different numbers of alternatives, cannot share a batch. So a short request waits for the batch
    that is running, and for at most one batch of each group of requests that can share batches. The
    length of the other requests does not matter.

    A line is split, translated and joined as `Translator.n_best` does it, so its translation does
    not depend on the other requests, except for near-ties (see `Translator`).
    """

    def __init__(self, *, max_chars: int) -> None:
        self.max_chars = max_chars
        self._changed = threading.Condition()
        self._new_jobs: deque[Job] = deque()  # guarded by _changed, as the next two are
        self._num_pending_chars = 0  # of all jobs that are not done
        self._is_closed = False
        self._started_jobs: deque[_StartedJob] = deque()  # used by the thread alone
        self._thread = threading.Thread(target=self._run, name="translation", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Take no more jobs, finish those that were taken, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def num_pending_chars(self) -> int:
        """The number of characters of the jobs that wait or run."""
        with self._changed:
            return self._num_pending_chars

    def submit(self, job: Job) -> None:
        """Add a job to the queue. Raises QueueFullError or QueueClosedError."""
        with self._changed:
            if self._is_closed:
                raise QueueClosedError
            num_chars = self._num_pending_chars + job.num_chars
            # A job that is alone is always taken.
            if num_chars > self.max_chars and self._num_pending_chars > 0:
                raise QueueFullError
            self._num_pending_chars = num_chars
            self._new_jobs.append(job)
            self._changed.notify()

    def _run(self) -> None:
        """Work until the queue is closed and empty."""
        while self._start_new_jobs():
            self._drop_cancelled_jobs()
            if not self._started_jobs:
                continue
            if self._started_jobs[0].waiting:
                self._translate_batch()
            self._finish_translated_jobs()

    def _start_new_jobs(self) -> bool:
        """Wait for work, start the new jobs, and return whether any job is started."""
        with self._changed:
            self._changed.wait_for(lambda: self._new_jobs or self._started_jobs or self._is_closed)
            new_jobs = list(self._new_jobs)
            self._new_jobs.clear()
        for job in new_jobs:
            if job.future.cancelled():
                self._release(job)
                continue
            try:
                self._started_jobs.append(_StartedJob.begin(job))
            except Exception as error:
                self._fail(job, error)
        return bool(new_jobs or self._started_jobs)

    def _drop_cancelled_jobs(self) -> None:
        """Remove the jobs of clients that are gone."""
        for started in list(self._started_jobs):
            if started.job.future.cancelled():
                self._started_jobs.remove(started)
                self._release(started.job)

    def _translate_batch(self) -> None:
        """Translate sentences of the first job, and of all jobs that can share its batch."""
        first = self._started_jobs[0].job
        sharing = [started for started in self._started_jobs if first.can_share_batch(started.job)]
        batch = _take_batch(sharing)
        search = first.model.translator.segment_search
        try:
            _translate_parts(search, batch, first.num_translations)
        except Exception:
            # Translate each part alone, so that a request fails only because of its own text.
            for started, waiting_part in batch:
                try:
                    _translate_parts(search, [(started, waiting_part)], first.num_translations)
                except Exception as error:
                    started.waiting.clear()
                    self._fail(started.job, error)
        for started in dict.fromkeys(started for started, _ in batch):
            self._started_jobs.remove(started)
            if not started.job.is_over:
                self._started_jobs.append(started)

    def _finish_translated_jobs(self) -> None:
        """Answer the requests whose lines are all translated."""
        for started in list(self._started_jobs):
            if not started.is_translated:
                continue
            self._started_jobs.remove(started)
            job = started.job
            if job.future.cancelled():
                self._release(job)
                continue
            try:
                answer = job.finish(started.n_best_lists())
            except Exception as error:
                self._fail(job, error)
                continue
            self._release(job)
            if job.future.set_running_or_notify_cancel():
                job.future.set_result(answer)

    def _fail(self, job: Job, error: Exception) -> None:
        """Answer a request by an error."""
        if job.is_over:
            return
        if not isinstance(error, MtError):
            logger.error("a request failed, which is a bug in mt", exc_info=error)
        self._release(job)
        if job.future.set_running_or_notify_cancel():
            job.future.set_exception(error)

    def _release(self, job: Job) -> None:
        """Mark a job as over, and no longer count its characters."""
        job.is_over = True
        with self._changed:
            self._num_pending_chars -= job.num_chars


def _translate_parts(
    search: BatchedSearch, batch: Sequence[tuple[_StartedJob, WaitingPart]], num_translations: int
) -> None:
    """Translate parts together, and store their translations in the jobs."""
    segments = [SourceSegment(waiting_part.part.src_ids) for _, waiting_part in batch]
    n_best_lists = search.n_best(segments, num_translations)
    for (started, waiting_part), translations in zip(batch, n_best_lists, strict=True):
        started.results[waiting_part.line, waiting_part.part_index] = translations


def _take_batch(sharing: Sequence[_StartedJob]) -> list[tuple[_StartedJob, WaitingPart]]:
    """Remove the parts of the next batch from their jobs and return them.

    Each job gives one part in turn, until the batch is full. It has at least one part.
    """
    batch: list[tuple[_StartedJob, WaitingPart]] = []
    cost = 0
    while True:
        num_before = len(batch)
        for started in sharing:
            if not started.waiting:
                continue
            waiting_part = started.waiting[0]
            if batch and cost + waiting_part.cost > BATCH_CHARS:
                return batch
            batch.append((started, started.waiting.popleft()))
            cost += waiting_part.cost
        if len(batch) == num_before:
            return batch
