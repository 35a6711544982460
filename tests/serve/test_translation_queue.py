"""The queue: requests share batches, none waits for ever, and none changes another's result."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest

from mt.decoding.search import Hypothesis
from mt.decoding.segment_search import SegmentSearch, SourceSegment
from mt.decoding.translation import Translation
from mt.errors import DeviceError
from mt.serve import translation_queue
from mt.serve.models import ServedModel, ServedModels
from mt.serve.translation_queue import Job, QueueClosedError, QueueFullError, TranslationQueue

LONG_LINE = "Balo deru fimi gona. " * 40
LINES = ["balo deru", "", LONG_LINE, "  hupe jasi ", "ß 1 \u2028 x", "kelo " * 60, "\u3000"]
LINES += ["ﬁmi a\u0308. Ａ  B\u00a0C! " * 9, "\u0301balo. \u200dGona", "a\u0301" * 90]


@pytest.fixture
def queue() -> Iterator[TranslationQueue]:
    queue = TranslationQueue(max_chars=100_000)
    queue.start()
    yield queue
    queue.close()


@pytest.fixture
def model(models: ServedModels) -> ServedModel:
    return models.models[0]


def as_it_is(n_best_lists: list[list[Translation]]) -> list[list[Translation]]:
    return n_best_lists


def job_of(model: ServedModel, *lines: str, num_translations: int = 1) -> Job:
    return Job(model, lines, num_translations, as_it_is)


class Blocker:
    """A job that keeps the thread busy until it is let go."""

    def __init__(self, queue: TranslationQueue, model: ServedModel) -> None:
        self.is_running = threading.Event()
        self.may_end = threading.Event()
        self.job = Job(model, [], 1, self._wait)
        queue.submit(self.job)
        self.is_running.wait()

    def _wait(self, n_best_lists: list[list[Translation]]) -> None:
        self.is_running.set()
        self.may_end.wait()


@pytest.mark.parametrize("normalization", ["none", "nfc", "nfkc"])
@pytest.mark.parametrize("num_translations", [1, 4])
def test_translations_are_those_of_the_translator(
    queue: TranslationQueue, model: ServedModel, num_translations: int, normalization: str
) -> None:
    """Also of lines that are split, although their parts are translated in several batches."""
    model = replace(model, translator=replace(model.translator, normalization=normalization))
    job = job_of(model, *LINES, num_translations=num_translations)
    queue.submit(job)
    expected = model.translator.n_best(LINES, num_translations=num_translations)
    assert job.future.result() == expected


def test_waiting_requests_share_a_batch(
    queue: TranslationQueue, model: ServedModel, calls: list[list[str]]
) -> None:
    blocker = Blocker(queue, model)
    jobs = [job_of(model, f"balo {i}", "deru") for i in range(5)]
    for job in jobs:
        queue.submit(job)
    blocker.may_end.set()
    results = [job.future.result() for job in jobs]
    assert len(calls) == 1
    assert sorted(calls[0]) == sorted(["deru"] * 5 + [f"balo {i}" for i in range(5)])
    expected = [
        model.translator.n_best([f"balo {i}", "deru"], num_translations=1) for i in range(5)
    ]
    assert results == expected


def test_other_models_and_numbers_of_alternatives_have_batches_of_their_own(
    queue: TranslationQueue, models: ServedModels, calls: list[list[str]]
) -> None:
    first, _, other = models.models
    blocker = Blocker(queue, first)
    jobs = [job_of(first, "a"), job_of(other, "b"), job_of(first, "c", num_translations=2)]
    for job in jobs:
        queue.submit(job)
    blocker.may_end.set()
    for job in jobs:
        job.future.result()
    assert calls == [["a"], ["b"], ["c"]]


# Requests with different numbers of translations are not in one batch.
@pytest.mark.parametrize("num_translations", [1, 2])
def test_a_short_request_does_not_wait_for_a_long_one(
    queue: TranslationQueue,
    model: ServedModel,
    monkeypatch: pytest.MonkeyPatch,
    num_translations: int,
) -> None:
    monkeypatch.setattr(translation_queue, "BATCH_CHARS", 200)
    blocker = Blocker(queue, model)
    order: list[str] = []
    long = Job(model, [LONG_LINE] * 3, 1, lambda _: order.append("long"))
    short = Job(model, ["hupe"], num_translations, lambda _: order.append("short"))
    queue.submit(long)
    queue.submit(short)
    blocker.may_end.set()
    long.future.result()
    short.future.result()
    assert order == ["short", "long"]


def test_a_batch_has_a_bounded_number_of_characters(
    queue: TranslationQueue,
    model: ServedModel,
    calls: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(translation_queue, "BATCH_CHARS", 200)
    job = job_of(model, *["balo deru fimi"] * 30)
    queue.submit(job)
    job.future.result()
    assert len(calls) == 6
    assert {len(texts) for texts in calls} == {5}  # of 14 characters, which count as 34


def test_a_cancelled_request_is_not_translated(
    queue: TranslationQueue, model: ServedModel, calls: list[list[str]]
) -> None:
    blocker = Blocker(queue, model)
    gone = job_of(model, "gona")
    stays = job_of(model, "hupe")
    queue.submit(gone)
    queue.submit(stays)
    assert gone.future.cancel()
    blocker.may_end.set()
    stays.future.result()
    assert calls == [["hupe"]]
    with pytest.raises(CancelledError):
        gone.future.result()
    assert queue.num_pending_chars == 0


def test_the_queue_is_bounded(model: ServedModel) -> None:
    queue = TranslationQueue(max_chars=20)
    queue.start()
    blocker = Blocker(queue, model)
    taken = job_of(model, "x" * 15)
    queue.submit(taken)
    with pytest.raises(QueueFullError):
        queue.submit(job_of(model, "balo"))
    blocker.may_end.set()
    taken.future.result()
    larger_than_the_queue = job_of(model, "balo " * 10)
    queue.submit(larger_than_the_queue)  # the queue is empty
    larger_than_the_queue.future.result()
    queue.close()
    assert queue.num_pending_chars == 0


def test_closing_finishes_what_was_taken(model: ServedModel) -> None:
    queue = TranslationQueue(max_chars=100_000)
    queue.start()
    blocker = Blocker(queue, model)
    jobs = [job_of(model, LONG_LINE) for _ in range(3)]
    for job in jobs:
        queue.submit(job)
    closing = threading.Thread(target=queue.close)
    closing.start()
    blocker.may_end.set()
    closing.join()
    assert all(job.future.done() for job in jobs)
    with pytest.raises(QueueClosedError):
        queue.submit(job_of(model, "balo"))


def test_a_request_that_fails_takes_no_other_along(
    queue: TranslationQueue, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_batch = SegmentSearch.search_batch
    (deru_ids,) = model.translator.src_tokenizer.encode(["deru"])

    def fail_for_deru(
        search: SegmentSearch, segments: Sequence[SourceSegment], beam_size: int
    ) -> list[list[Hypothesis]]:
        if any(segment.ids == deru_ids for segment in segments):
            raise DeviceError("out of memory")
        return search_batch(search, segments, beam_size)

    monkeypatch.setattr(SegmentSearch, "search_batch", fail_for_deru)
    blocker = Blocker(queue, model)
    bad = job_of(model, "balo", "deru")
    good = job_of(model, "hupe")
    queue.submit(bad)
    queue.submit(good)
    blocker.may_end.set()
    assert good.future.result() == model.translator.n_best(["hupe"], num_translations=1)
    with pytest.raises(DeviceError):
        bad.future.result()
    assert queue.num_pending_chars == 0


def test_an_answer_that_cannot_be_made_is_an_error(
    queue: TranslationQueue, model: ServedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(n_best_lists: list[list[Translation]]) -> None:
        raise ValueError("a bug")

    job = Job(model, ["balo"], 1, fail)
    queue.submit(job)
    with pytest.raises(ValueError, match="a bug"):
        job.future.result()
    after = job_of(model, "balo")
    queue.submit(after)
    assert after.future.result()
