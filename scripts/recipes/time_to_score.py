"""Print how long runs trained until their BLEU on the validation set reached a goal.

    python -m scripts.recipes.time_to_score RUN_DIR ... [--goal 35.0]

The goal is reached at the second of two validations in a row with this score or more. The time is
that of the training, from the start of the command: tokenizers are included, validations are not.
Scores of a part of the set, or of another search than beam search with beam 5, are an error.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mt.errors import DataError, MtError
from mt.storage.run_dir import RunDir
from mt.training.metrics_log import MetricsHistory, MetricsLine, read_metrics_log, read_scope

BEAM_SIZE = 5
IN_A_ROW = 2  # validations


@dataclass(frozen=True)
class TimedScore:
    """The score of a validation, and how long the run had trained."""

    step: int
    score: float
    seconds: float  # without this validation and the earlier ones


def timed_scores(history: MetricsHistory) -> list[TimedScore]:
    """Return the BLEU of each validation with the time of training before it. Raises DataError.

    A validation takes the time from the line of the training loss to its own line, both of the same
    update, so `train.log_every` must divide `train.validate_every`.
    """
    timed = []
    validation_seconds = 0.0
    train_lines = {line["step"]: line for line in history.train}
    for line in history.valid:
        step = line["step"]
        if step not in train_lines:
            raise DataError(
                f"metrics.jsonl has no training loss of update {step:,}: "
                "wanted a train.log_every that divides train.validate_every"
            )
        _check_scope(line)
        start = train_lines[step]["timing"]["elapsed_seconds"]
        timed.append(TimedScore(step, line["BLEU"], start - validation_seconds))
        validation_seconds += line["timing"]["elapsed_seconds"] - start
    return timed


def _check_scope(line: MetricsLine) -> None:
    """Raise DataError unless a score is of the whole set, by the search that counts."""
    scope = read_scope(line)
    if scope is None or scope.num_lines < scope.num_lines_in_set or scope.beam_size != BEAM_SIZE:
        raise DataError(
            f"update {line['step']:,} was scored by {scope}: wanted the whole set, "
            f"beam {BEAM_SIZE} (train.validation_lines and train.validation_beam_size)"
        )


def first_at_goal(scores: Sequence[TimedScore], goal: float) -> TimedScore | None:
    """Return the first validation that reaches the goal right after another one that does."""
    num_in_a_row = 0
    for timed in scores:
        num_in_a_row = num_in_a_row + 1 if timed.score >= goal else 0
        if num_in_a_row == IN_A_ROW:
            return timed
    return None


def describe(run_dir: Path, scores: Sequence[TimedScore], reached: TimedScore | None) -> str:
    """Return the line of a run in the table."""
    best = max((timed.score for timed in scores), default=0.0)
    if reached is None:
        return f"{run_dir!s:<32}       -        -       -   {best:5.2f}"
    return (
        f"{run_dir!s:<32}  {reached.seconds / 60:6.2f}  {reached.step:7,}   {reached.score:5.2f}"
        f"   {best:5.2f}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--goal", type=float, default=35.0, help="BLEU  [default: 35.0]")
    options = parser.parse_args(arguments)

    minutes = []
    print(f"{'run':<32}  minutes  update    BLEU    best")
    for run_dir in options.run_dirs:
        try:
            scores = timed_scores(read_metrics_log(RunDir(run_dir).metrics_path))
        except MtError as error:
            print(f"time_to_score: {run_dir}: {error}", file=sys.stderr)
            return 1
        reached = first_at_goal(scores, options.goal)
        print(describe(run_dir, scores, reached))
        if reached is not None:
            minutes.append(reached.seconds / 60)
    num_missing = len(options.run_dirs) - len(minutes)
    if num_missing:
        print(f"{num_missing} of {len(options.run_dirs)} runs did not reach {options.goal}")
        return 1
    print(
        f"mean {statistics.mean(minutes):.2f} minutes, "
        f"from {min(minutes):.2f} to {max(minutes):.2f}, {len(minutes)} runs"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
