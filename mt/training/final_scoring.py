"""The score of a finished run: its best checkpoint, translated by the search of `mt evaluate`.

Validations use a cheap search and a sample of the set, so their scores only serve to compare the
checkpoints of a run. The final score is the one to report.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mt.experiment import Experiment
from mt.storage.checkpoint import BEST, find_checkpoint, step_name
from mt.training.all_ranks import Interrupting, compute_on_all_ranks, never_interrupting
from mt.training.console import translation_bar
from mt.training.metrics_log import (
    FinalRecord,
    MetricsLine,
    ScoreScope,
    ValidationRecord,
    read_scores,
    read_sets,
)
from mt.training.validator import (
    Validator,
    merge_sets,
    sample_sets,
    score_eval_sets,
    translate_eval_sets,
)
from mt.wording import count_of

# The final scoring takes at most this fraction of `train.max_minutes`. If the whole set needs more,
# a sample of it is scored.
MAX_SCORING_FRACTION = 0.1
# A sample has a multiple of SAMPLE_UNIT lines. It has at least FEWEST_LINES, because a score of
# fewer lines is too uncertain.
SAMPLE_UNIT = 100
FEWEST_LINES = 200

# With beam k, a search takes about 1 + BEAM_COST * (k - 1) times as long as greedy search. Measured
# for beam 5: 2.2 to 3.6 times (docs/log.md, "Translating compared with CTranslate2").
BEAM_COST = 0.65


@dataclass(frozen=True)
class ScoringTask:
    """What to score: a checkpoint on a number of lines. Or the score, if it is already known."""

    checkpoint: str  # its name
    num_lines: int
    known_score: FinalRecord | None  # from an earlier process or a validation


class FinalScoring:
    """Scores the best checkpoint of a run on the validation sets."""

    def __init__(self, experiment: Experiment, validator: Validator) -> None:
        self.experiment = experiment
        self.validator = validator
        self.beam_size = experiment.config.search.beam_size
        self.budget_seconds = scoring_budget(experiment.config.train.max_minutes)

    def reserved_seconds(self, seconds_per_line: float | None) -> float:
        """Return how much of `train.max_minutes` to keep free for the final scoring.

        `seconds_per_line` is the time of a line in the latest validation, or None without one.
        """
        if self.budget_seconds is None or self.validator.is_like_evaluate:
            return 0.0
        if seconds_per_line is None:
            return self.budget_seconds
        return self._num_lines(seconds_per_line) * self._final_seconds(seconds_per_line)

    def score(
        self,
        lines: Iterable[MetricsLine],
        *,
        seconds_per_line: float | None,
        interrupting: Interrupting = never_interrupting,
    ) -> FinalRecord:
        """Return the final score; all ranks take part, and the arguments of rank 0 count.

        Nothing is translated if a line of metrics.jsonl, one of `lines`, has this score. Raises
        MtError, for example if there is no best checkpoint. A signal that arrives in the context
        that `interrupting` returns, on any rank, raises InterruptedBySignal on all of them.
        """
        runtime = self.validator.runtime

        def make_task() -> ScoringTask | None:
            return self._make_task(lines, seconds_per_line) if runtime.is_main else None

        task, *_ = compute_on_all_ranks(make_task, runtime, interrupting=interrupting)
        assert task is not None
        if task.known_score is not None:
            return task.known_score
        shares = compute_on_all_ranks(
            lambda: self._translate_share(task), runtime, interrupting=interrupting
        )
        return runtime.compute_on_main(lambda: self._score_translations(task, merge_sets(shares)))

    def _make_task(
        self, lines: Iterable[MetricsLine], seconds_per_line: float | None
    ) -> ScoringTask:
        """Return what to score. Raises CheckpointError if there is no best checkpoint."""
        checkpoint = find_checkpoint(self.experiment.run_dir.checkpoints_dir, BEST).name
        num_lines = self._num_lines(seconds_per_line)
        known_score = None
        for line in lines:
            if self._has_final_score(line, checkpoint, num_lines=num_lines):
                known_score = self._read_score(line, checkpoint, num_lines=num_lines)
                break
        return ScoringTask(checkpoint, num_lines, known_score)

    def _read_score(self, line: MetricsLine, checkpoint: str, *, num_lines: int) -> FinalRecord:
        """Return the score that a line has."""
        elapsed_seconds = None
        scope = self.validator.scope
        if line["kind"] == FinalRecord.kind:
            elapsed_seconds = line.get("timing", {}).get("elapsed_seconds")
            scope = self._scope(num_lines)
        return FinalRecord(
            checkpoint,
            scores=read_scores(line),
            signatures=line["signatures"],
            scope=scope,
            elapsed_seconds=elapsed_seconds,
            sets=read_sets(line),
        )

    def _has_final_score(self, line: MetricsLine, checkpoint: str, *, num_lines: int) -> bool:
        """Return whether a line has the score that is to be computed."""
        signatures = line.get("signatures")
        if not signatures or any(name not in line for name in signatures):
            return False
        if line["kind"] == ValidationRecord.kind:
            return self.validator.is_like_evaluate and step_name(line["step"]) == checkpoint
        return line.get("checkpoint") == checkpoint and line.get("num_lines") == num_lines

    def _translate_share(self, task: ScoringTask) -> list[list[str]]:
        """Return the translations of this rank's sources of each set."""
        device = self.experiment.config.train.device
        translator = self.experiment.translator(task.checkpoint, device=device)
        text = f"scoring {task.checkpoint} on {count_of(task.num_lines, 'line')}"
        eval_sets = sample_sets(self.experiment.validation_sets, task.num_lines)
        runtime = self.validator.runtime
        with translation_bar(text, enabled=runtime.is_main) as on_progress:
            return translate_eval_sets(translator, eval_sets, runtime, on_progress=on_progress)

    def _score_translations(
        self, task: ScoringTask, hypotheses_of_sets: Sequence[Sequence[str]]
    ) -> FinalRecord:
        """Return the score of the translations of all lines."""
        eval_sets = sample_sets(self.experiment.validation_sets, task.num_lines)
        scored = score_eval_sets(eval_sets, hypotheses_of_sets, self.experiment.config)
        return FinalRecord(
            task.checkpoint,
            scores=scored.scores,
            signatures=scored.signatures,
            scope=self._scope(task.num_lines),
            sets=scored.sets if len(scored.sets) > 1 else [],
        )

    def _scope(self, num_lines: int) -> ScoreScope:
        return ScoreScope(num_lines, self._num_lines_in_set, beam_size=self.beam_size)

    def _num_lines(self, seconds_per_line: float | None) -> int:
        """Return how many lines of the validation sets to score."""
        if self.budget_seconds is None or seconds_per_line is None:
            return self._num_lines_in_set
        return affordable_lines(
            self._num_lines_in_set,
            seconds_per_line=self._final_seconds(seconds_per_line),
            budget_seconds=self.budget_seconds,
        )

    def _final_seconds(self, seconds_per_line: float) -> float:
        """Return the seconds of a line in the final scoring, estimated from a validation."""
        validation_cost = beam_cost(self.validator.search.beam_size)
        return seconds_per_line * beam_cost(self.beam_size) / validation_cost

    @property
    def _num_lines_in_set(self) -> int:
        return self.validator.scope.num_lines_in_set


def scoring_budget(max_minutes: float | None) -> float | None:
    """Return the most seconds that the final scoring may take; None: as many as it needs.

    A run without `train.max_minutes` has no planned time. So its scores do not depend on a clock.
    """
    return None if max_minutes is None else MAX_SCORING_FRACTION * 60.0 * max_minutes


def affordable_lines(num_lines: int, *, seconds_per_line: float, budget_seconds: float) -> int:
    """Return how many of `num_lines` lines to score within the budget."""
    if num_lines * seconds_per_line <= budget_seconds:
        return num_lines
    num_units = int(budget_seconds / (seconds_per_line * SAMPLE_UNIT))
    return min(num_lines, max(FEWEST_LINES, num_units * SAMPLE_UNIT))


def beam_cost(beam_size: int) -> float:
    """Return how many times as long as greedy search a search with this beam takes."""
    return 1.0 + BEAM_COST * (beam_size - 1)
