"""What a run reports while it trains: lines of metrics.jsonl, and what a person sees."""

import math
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mt.distributed import Runtime
from mt.errors import DiskError
from mt.progress_bar import format_duration
from mt.storage.checkpoint import has_best
from mt.storage.run_dir import RunDir
from mt.training.console import Console, Numbers, Position
from mt.training.metrics_log import (
    FinalRecord,
    IncidentRecord,
    MetricsLog,
    Record,
    StartRecord,
    TrainRecord,
    ValidationRecord,
)
from mt.training.planner import RunPlanner
from mt.training.state import TrainState, WindowSums
from mt.training.tensorboard_file import EventFile
from mt.wording import count_of


class RunLog:
    """The records of a run. Only rank 0 writes and shows them."""

    def __init__(
        self, run_dir: RunDir, *, runtime: Runtime, state: TrainState, planner: RunPlanner
    ) -> None:
        self.run_dir = run_dir
        self.runtime = runtime
        self.state = state
        self.planner = planner
        self.metrics = MetricsLog(run_dir.metrics_path)
        self.console = Console(enabled=runtime.is_main)
        self._event_file: EventFile | None = None
        self._speed_start_seconds = 0.0
        self._speed_start_tokens = 0

    def write(self, record: Record, **timing: float) -> None:
        """Write a line of metrics.jsonl."""
        if self.runtime.is_main:
            timing = {"elapsed_seconds": self.state.elapsed_seconds, **timing}
            line = self.metrics.write(record, step=self.state.step, timing=timing)
            if self._event_file is not None:
                with self._events_may_fail():
                    self._event_file.append(line)

    def record_incident(self, text: str) -> None:
        """Warn of a problem that does not end the run, and log it for the summary at the end."""
        self.write(IncidentRecord(text))
        self.console.warning(text)

    # TensorBoard

    def start_event_file(self) -> None:
        """Write the events of all lines so far, and from now on those of each new line."""
        if self.runtime.is_main:
            self._event_file = EventFile(self.run_dir.tensorboard_dir)
            with self._events_may_fail():
                self._event_file.rewrite(self.metrics.history().lines)

    @contextmanager
    def _events_may_fail(self) -> Iterator[None]:
        """Continue without events when the disk refuses those of the `with` block."""
        try:
            yield
        except DiskError as error:
            self._event_file = None
            self.record_incident(f"no more events for TensorBoard until a resume: {error}")

    # Start and end

    def start(self, num_parameters: int) -> None:
        """Begin the log of a new run."""
        if not self.runtime.is_main:
            return
        self.metrics.clear()  # lines of a run that ended before its first checkpoint
        record = StartRecord(num_parameters, self.runtime.environment())
        self.metrics.write(record, step=0, timing={"unix_time": time.time()})
        self.metrics.sync()
        name = self.run_dir.display_path
        self.console.info(f"{name}: {num_parameters:,} parameters ({self._device_text()})")

    def show_resumed(self) -> None:
        """Say from which update a run resumes."""
        self.console.info(
            f"{self.run_dir.display_path}: resuming from update {self.state.step:,} "
            f"({self._device_text()})"
        )

    def _device_text(self) -> str:
        """Return where the run computes, and in which precision."""
        text = f"{self.runtime.device.type}, {self.runtime.precision}"
        if self.runtime.world_size > 1:
            text += f", {self.runtime.world_size} ranks"
        return text

    def show_summary(self, reason: str, *, num_skipped: int, can_resume: bool) -> None:
        """Say what went wrong, where the model is, and which command comes next.

        `can_resume`: a signal stopped the run, so the same command continues it.
        """
        if not self.runtime.is_main:
            return
        incidents = self.metrics.incidents()
        if incidents:
            self.console.info("\n  ".join(["incidents of this run:", *incidents]))
        run_dir = self.run_dir
        skipped = f" ({num_skipped:,} skipped)" if num_skipped else ""
        self.console.info(
            f"{reason} after {count_of(self.state.step, 'update')}{skipped} and "
            f"{format_duration(self.state.elapsed_seconds)}; the model is in {run_dir.display_path}"
        )
        if can_resume:
            self.console.info("run the same command again to resume")
        elif has_best(run_dir.checkpoints_dir):
            path = shlex.quote(run_dir.display_path)
            self.console.info(
                f'next:\n  echo "a sentence" | mt translate {path}\n  mt evaluate {path}'
            )

    # Updates

    def advance(self) -> None:
        """Show that an update is done."""
        self.console.advance(self._position())

    def log_updates(self, sums: WindowSums) -> None:
        """Log the means over the updates since the last logged line.

        The speed of the next line is measured from here.
        """
        record = TrainRecord(
            epoch=self.state.epoch,
            losses={name: _mean(loss, sums.num_tokens) for name, loss in sums.losses.items()},
            lr=self.planner.learning_rate(self.state.step),
            grad_norm=_mean(sums.grad_norm, sums.num_updates),
            tokens_seen=self.state.tokens_seen,
            num_skipped=self.state.num_skipped,
        )
        tokens_per_second = self._tokens_per_second()
        peak_memory = self.runtime.peak_memory()
        self.write(record, tokens_per_second=tokens_per_second, peak_memory=peak_memory)
        self.show_numbers(sums)
        self.restart_speed_measurement()

    def numbers_are_due(self) -> bool:
        """Return whether to show numbers between two logged lines.

        With several ranks, only the logged lines have the losses of all of them.
        """
        return self.runtime.world_size == 1 and self.console.numbers_are_due()

    def show_numbers(self, sums: WindowSums) -> None:
        """Show the means over the updates since the last logged line, if there are any."""
        numbers = Numbers(
            loss=_mean(sums.losses["loss"], sums.num_tokens),
            lr=self.planner.learning_rate(self.state.step),
            tokens_per_second=self._tokens_per_second(),
        )
        self.console.show_numbers(self._position(), numbers)

    def _position(self) -> Position:
        """Return how far the run is, for a person who watches it."""
        state = self.state
        progress = self.planner.progress(state)
        return Position(
            step=state.step,
            total_steps=self.planner.total_steps,
            epoch=state.epoch + state.batch_index / self.planner.epoch_length,
            fraction=progress.fraction,
            seconds_left=progress.seconds_left,
        )

    # Speed

    def restart_speed_measurement(self) -> None:
        """Start measuring tokens per second from here."""
        self._speed_start_seconds = self.state.elapsed_seconds
        self._speed_start_tokens = self.state.tokens_seen

    def _tokens_per_second(self) -> float:
        """Return the target tokens per second since the last logged line or validation."""
        seconds = max(self.state.elapsed_seconds - self._speed_start_seconds, 1e-9)
        return (self.state.tokens_seen - self._speed_start_tokens) / seconds

    # Scores

    def log_validation(self, record: ValidationRecord) -> None:
        """Log a validation, and show its scores."""
        validation = record.validation
        self.write(record, translation_seconds=validation.translation_seconds)
        self.console.show_validation(self.state.step, validation, is_best=record.is_best)

    def log_final_score(self, record: FinalRecord) -> None:
        """Log the final score, and show it."""
        elapsed_seconds = self.state.elapsed_seconds
        if record.elapsed_seconds is not None:  # a complete run stays as it is
            elapsed_seconds = record.elapsed_seconds
        self.write(record, elapsed_seconds=elapsed_seconds)
        self.console.show_final_score(record)


def _mean(total: float, count: float) -> float:
    """Return total / count, or nan when nothing was counted."""
    return total / count if count else math.nan
