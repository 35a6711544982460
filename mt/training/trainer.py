"""The training loop: updates, validation, logging and checkpoints.

`Trainer.fit` runs a training from its start, or from the last checkpoint, to its end. In an update,
the ranks share `batches_per_update` batches of the epoch's plan. What a checkpoint holds is in
mt/training/checkpointer.py, and what a run reports is in mt/training/run_log.py.
"""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from typing import NoReturn, Protocol, Self

import torch
from torch import Tensor

from mt.config.schema import TrainConfig
from mt.data.batching import Batch
from mt.data.dataset import Dataset, Epoch
from mt.data.prefetch import Prefetcher
from mt.distributed import Runtime
from mt.errors import CheckpointError, DiskError, MtError, TrainingError
from mt.experiment import Experiment
from mt.storage.checkpoint import CheckpointStore, has_checkpoint, step_name
from mt.storage.run_dir import RunDir
from mt.training import stopping
from mt.training.all_ranks import Interrupting
from mt.training.checkpointer import Checkpointer
from mt.training.ema import MovingAverage
from mt.training.final_scoring import FinalScoring
from mt.training.init_from import freeze_weights, load_initial_weights
from mt.training.memory_check import check_memory
from mt.training.metrics_log import FinalRecord, MetricsLine, Validation, ValidationRecord
from mt.training.objective import LossSums, Objective, make_objective
from mt.training.optimizer import build_optimizer, clip_gradients
from mt.training.planner import RunPlanner
from mt.training.run_log import RunLog
from mt.training.signals import InterruptedBySignal, StopSignals
from mt.training.state import LogWindow, TrainState, WindowSums
from mt.training.validator import Validator
from mt.wording import count_of


class ValidationFunction(Protocol):
    """A callable that scores a model on the validation set, such as a Validator."""

    def __call__(self, objective: Objective, *, interrupting: Interrupting) -> Validation: ...


class Trainer:
    """Owns the model's weights, the optimizer and the training state while a run lasts."""

    def __init__(
        self,
        objective: Objective,
        dataset: Dataset,
        validate: ValidationFunction,
        *,
        valid_digest: str,
        config: TrainConfig,
        run_dir: RunDir,
        runtime: Runtime,
        final_scoring: FinalScoring | None = None,
        start_time: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a trainer. `start_time` is when the command started, by `clock`; by default, now."""
        self.objective = objective
        self.dataset = dataset
        self.validate = validate
        self.final_scoring = final_scoring
        self.config = config
        self.run_dir = run_dir
        self.runtime = runtime

        objective.transformer.compute_dtype = runtime.dtype
        self.wrapped_objective = runtime.wrap_in_ddp(objective)
        self.optimizer = build_optimizer(objective, config)
        self.scaler = runtime.scaler()
        self.ema: MovingAverage | None = None
        if config.ema_decay > 0.0:
            self.ema = MovingAverage(objective.transformer, config.ema_decay)
        self.state = TrainState()
        self.window = LogWindow(runtime.device, objective.sum_names)
        # Over all ranks. A run keeps this number when it resumes on another number of ranks.
        batches_per_update = config.gradient_accumulation * runtime.world_size
        self.planner = RunPlanner(config, batches_per_update=batches_per_update)

        self.log = RunLog(run_dir, runtime=runtime, state=self.state, planner=self.planner)
        self.checkpointer = Checkpointer(
            store=CheckpointStore(run_dir.checkpoints_dir, keep=config.keep_checkpoints),
            objective=objective,
            optimizer=self.optimizer,
            scaler=self.scaler,
            ema=self.ema,
            state=self.state,
            planner=self.planner,
            window=self.window,
            log=self.log,
            runtime=runtime,
            dataset=dataset,
            valid_digest=valid_digest,
        )
        self.signals = StopSignals(announce=runtime.is_main)  # of this process

        self.stop_signal: str | None = None  # of any rank, at the latest exchange
        self.save_requested = False  # by SIGUSR1, on any rank
        # The state of the best checkpoint, if the disk refused to store it.
        self.unsaved_best: TrainState | None = None
        self.memory_checked = False
        self.clock = clock
        # When the run would have started if it had trained without an interruption until now.
        self.start_time = clock() if start_time is None else start_time
        self.seconds_per_line: float | None = None  # of the latest validation, to translate
        # What metrics.jsonl had after the checkpoint from which this process resumed.
        self.earlier_final_scores: Sequence[MetricsLine] = ()

    @classmethod
    def from_experiment(
        cls, experiment: Experiment, runtime: Runtime, *, start_time: float | None = None
    ) -> Self:
        """Return the trainer of an experiment with trained tokenizers. Raises MtError.

        `max_minutes` counts from `start_time` of `time.monotonic`; by default, from now.
        """
        config = experiment.config.train
        dataset = experiment.training_data
        model = experiment.model(runtime.device)
        if not has_checkpoint(experiment.run_dir.checkpoints_dir):
            load_initial_weights(model, experiment)
        freeze_weights(model, config.freeze)
        torch.manual_seed(dropout_seed(config.seed, runtime.rank))
        objective = make_objective(model, experiment, runtime)
        validator = Validator(experiment, runtime)
        return cls(
            objective,
            dataset,
            validator,
            valid_digest=experiment.validation_digest,
            config=config,
            run_dir=experiment.run_dir,
            runtime=runtime,
            final_scoring=FinalScoring(experiment, validator),
            start_time=start_time,
        )

    def fit(self) -> str:
        """Train from the start, or from the last checkpoint, to the end of the run.

        A limit, early stopping or a signal ends it. Returns the reason as text. Raises
        TrainingError when training diverges, CheckpointError when a checkpoint does not fit this
        run, and DiskError when the end of the run cannot be saved.
        """
        self._resume_or_start()
        self._reserve_time()
        self.start_time -= self.state.elapsed_seconds  # of earlier processes
        self._update_elapsed_time()
        self.log.restart_speed_measurement()
        with self.signals.caught(), self.log.console.progress_bar():
            if self._validation_is_due():  # a signal stopped the run before this validation
                self._validate_and_save()
            self._examine_plan()
            reason = self._agree_on_stop_reason()
            while reason is None:
                self._train_epoch()
                reason = self._agree_on_stop_reason()
            self._finish()
            self._score_best()
        num_skipped = self.state.num_skipped + int(self.window.sums().num_skipped)
        self.log.show_summary(
            reason, num_skipped=num_skipped, can_resume=self.stop_signal is not None
        )
        return reason

    def _resume_or_start(self) -> None:
        """Load the newest good checkpoint if there is one, and say what is about to happen."""
        if has_checkpoint(self.run_dir.checkpoints_dir):
            self._read_earlier_scores()  # the next line cuts metrics.jsonl back
            self.checkpointer.restore_newest()
            self.log.show_resumed()
        else:
            self.log.start(self.objective.transformer.num_parameters)
        if self.config.tensorboard:
            self.log.start_event_file()

    def _read_earlier_scores(self) -> None:
        """Read from metrics.jsonl what the final scoring needs, on rank 0."""
        if not self.runtime.is_main:
            return
        history = self.log.metrics.history()
        self.earlier_final_scores = history.final
        if history.valid:
            line = history.valid[-1]
            seconds = line.get("timing", {}).get("translation_seconds")
            if seconds is not None and line.get("num_lines"):
                self.seconds_per_line = seconds / line["num_lines"]

    # The loop

    def _train_epoch(self) -> None:
        """Train on the rest of the current epoch, or until there is a reason to stop."""
        state = self.state
        self.log.console.show_activity("planning an epoch")
        epoch = self.dataset.epoch(state.epoch, batch_tokens=self.config.batch_tokens)
        num_batches = epoch.plan.num_batches
        self.planner.epoch_length = num_batches
        if state.batch_index >= num_batches:
            raise CheckpointError(
                f"{self.run_dir.checkpoints_dir}: the checkpoint is at batch {state.batch_index} "
                f"of epoch {state.epoch}, which has {num_batches}: the batches have changed"
            )
        self._check_memory_once(epoch)
        self._examine_plan()  # the number of batches of an epoch varies a little
        batches_per_update = self.planner.batches_per_update
        updates = [
            range(start, min(start + batches_per_update, num_batches))
            for start in range(state.batch_index, num_batches, batches_per_update)
        ]
        own_indices = chain.from_iterable(self._own_indices(indices) for indices in updates)
        self.wrapped_objective.train()
        with Prefetcher(epoch, own_indices) as batches:
            for indices in updates:
                if self._agree_on_stop_reason() is not None:
                    return
                self._save_if_requested()
                self.update(batches, indices)
                state.batch_index = indices.stop
                if indices.stop == num_batches:
                    state.epoch += 1
                    state.batch_index = 0
                self._after_update()

    def _own_indices(self, indices: range) -> range:
        """Return the batches that this rank computes in the update on the batches `indices`.

        A rank without a batch of its own computes the first one, because every rank must take part
        in DDP's all-reduce; `update` gives it a loss factor of 0.
        """
        return indices[self.runtime.rank :: self.runtime.world_size] or indices[:1]

    def update(self, source: Epoch | Prefetcher, indices: range) -> None:
        """Do one optimizer step on the batches `indices` of an epoch.

        The batches are divided among the ranks. The gradient is that of one big batch: each batch's
        summed loss is divided by the target tokens of the update.
        """
        runtime = self.runtime
        loss_factor = 1.0 if runtime.rank < len(indices) else 0.0
        own_indices = self._own_indices(indices)
        own_batches = [source.batch(index) for index in own_indices]
        num_tokens = self._count_tokens(own_batches if loss_factor else [])
        losses = dict.fromkeys(self.objective.sum_names, torch.zeros((), device=runtime.device))
        for index, cpu_batch in zip(own_indices, own_batches, strict=True):
            batch = cpu_batch.to(runtime.device)
            # DDP exchanges gradients with the last batch of a rank only.
            is_last = index + runtime.world_size >= indices.stop
            sync_context = nullcontext() if is_last else runtime.no_sync(self.wrapped_objective)
            with sync_context:
                sums: LossSums = self.wrapped_objective(batch)
                # DDP averages gradients over the ranks, so world_size turns the mean into a sum.
                scaled_loss = sums.loss * (loss_factor * runtime.world_size / num_tokens)
                self.scaler.scale(scaled_loss).backward()  # type: ignore[no-untyped-call]
            for name, value in sums.sums.items():
                losses[name] = losses[name] + loss_factor * value.detach()
        self.state.step += 1
        self.state.tokens_seen += num_tokens
        grad_norm = self._optimizer_step()
        self.window.add(losses, num_tokens=num_tokens, grad_norm=grad_norm)

    def _count_tokens(self, own_batches: Sequence[Batch]) -> int:
        """Return the number of target tokens of an update, over all ranks.

        With BPE-dropout it depends on the sampled batches, not on the plan alone. The ranks
        exchange it on the CPU, so that no rank waits for its GPU.
        """
        num_tokens = torch.tensor(sum(batch.num_tokens for batch in own_batches))
        return int(self.runtime.all_reduce_sum(num_tokens))

    def _optimizer_step(self) -> Tensor:
        """Clip the gradients, step and reset them; return their norm before clipping.

        If a gradient is not finite, weights, their average and the optimizer stay unchanged.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.scaler.unscale_(self.optimizer)
        grad_norm = clip_gradients(self.objective, self.config.clip_norm)
        # A fused optimizer skips the step if its `found_inf` is 1, without a wait for the device.
        # With fp16, the GradScaler sets this value itself.
        self.optimizer.found_inf = (~grad_norm.isfinite()).float()  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(grad_norm.isfinite())
        self.optimizer.zero_grad()
        return grad_norm

    def _after_update(self) -> None:
        """Log, validate and save, each when it is due."""
        state = self.state
        config = self.config
        self._update_elapsed_time()
        self.planner.count_update(state)
        self.log.advance()
        if state.step % config.log_every == 0:
            self._log_updates()
        elif self.log.numbers_are_due():
            self._show_numbers()
        if self._validation_is_due():
            self._validate_and_save()
        elif self._save_is_due() and self._agree_on_stop_reason() is None:  # `fit` saves at a stop
            self._save(is_best=False)

    def _log_updates(self) -> None:
        """Log the means over the updates since the last logged line.

        Raises TrainingError when too many updates in a row were skipped.
        """
        sums = self.window.close(self.runtime)
        self.state.num_skipped += int(sums.num_skipped)
        self.log.log_updates(sums)
        self._report_skipped_updates(sums)

    def _show_numbers(self) -> None:
        """Show numbers between two logged lines.

        This waits for the device, so it is done rarely.
        """
        sums = self.window.sums()
        if sums.num_updates > 0:
            self.log.show_numbers(sums)

    def _report_skipped_updates(self, sums: WindowSums) -> None:
        """Record skipped updates as an incident. Raises TrainingError when they are too many."""
        # In fp16 a scaler finds its scale by skipping a few updates; that is not an incident.
        if sums.num_skipped and not self.scaler.is_enabled():
            updates = count_of(int(sums.num_skipped), "update")
            self.log.record_incident(f"{updates} skipped: gradients were not finite")
        num_in_a_row = int(sums.num_skipped_in_a_row)
        if num_in_a_row >= self.config.max_skipped:
            self._raise_diverged(
                f"gradients were not finite in {count_of(num_in_a_row, 'update')} in a row"
            )

    def _update_elapsed_time(self) -> None:
        self.state.elapsed_seconds = self.clock() - self.start_time

    def _validation_is_due(self) -> bool:
        state = self.state
        is_due = state.step > 0 and state.step % self.config.validate_every == 0
        return is_due and state.step != state.last_validated_step

    def _save_if_requested(self) -> None:
        """Save a checkpoint if a rank has got a SIGUSR1.

        Before the first update there is nothing to save, and the request waits.
        """
        if not self.save_requested or self.state.step == 0:
            return
        if self.state.step != self.checkpointer.last_saved_step:
            self._save(is_best=False)
        self.save_requested = False

    def _save_is_due(self) -> bool:
        save_every = self.config.save_every
        return save_every is not None and self.state.step % save_every == 0

    def _finish(self) -> None:
        """Validate and save the last update, where this is not done yet.

        After a signal, validation is left to the resumed run.
        """
        state = self.state
        self._exchange_signals_and_plan()
        if self.stop_signal is None and state.step != state.last_validated_step:
            self._validate_and_save()
        if state.step != self.checkpointer.last_saved_step:
            self._save_last_update()

    def _save_last_update(self) -> None:
        """Save the last update, which an earlier try may have failed to save. Raises DiskError."""
        unsaved_best = self.unsaved_best
        is_best = False
        if unsaved_best is not None and unsaved_best.step == self.state.step:
            self.state.assign(unsaved_best)
            is_best = True
        error = self._save(is_best=is_best)
        if error is not None:
            raise error

    def _check_memory_once(self, epoch: Epoch) -> None:
        """Try the largest batches before the first update of this process. Raises DeviceError."""
        if self.memory_checked:
            return
        self.log.console.show_activity("trying the largest batches")
        check_memory(
            self.objective,
            self.dataset,
            epoch,
            batch_tokens=self.config.batch_tokens,
            runtime=self.runtime,
            optimizer_has_state=bool(self.optimizer.state),
        )
        self.memory_checked = True

    # Stopping

    def _agree_on_stop_reason(self) -> str | None:
        """Exchange signals and plans with the other ranks; return why to stop now, or None."""
        self._exchange_signals_and_plan()
        return self.stop_reason()

    def _exchange_signals_and_plan(self) -> None:
        """Agree with the other ranks on signals, and with `max_minutes` on a revised plan.

        A signal may reach some ranks only: it counts for all. Clocks differ: that of rank 0 counts.
        This happens in every update, so it is one exchange of three numbers.
        """
        total_steps = None
        if self.runtime.is_main and self.planner.is_due(self.state):
            total_steps = self.planner.allowed_steps(self.state)
        signal_number, save_requested, planned_steps = self.runtime.all_reduce_max(
            [self.signals.number, int(self.signals.save_requested), total_steps or 0]
        )
        self.signals.save_requested = False
        self.save_requested = self.save_requested or bool(save_requested)
        if signal_number:
            self.stop_signal = self.signals.take_over(signal_number)
        self._revise_plan(planned_steps or None)

    def stop_reason(self) -> str | None:
        """Return why to stop now, or None; the same on every rank."""
        reason = stopping.stop_reason(self.state, self.planner.plan, self.config)
        if reason is None and self.stop_signal is not None:
            reason = f"stopped by {self.stop_signal}"
        return reason

    # The plan

    @property
    def learning_rate(self) -> float:
        """The learning rate of update `state.step`."""
        return self.planner.learning_rate(self.state.step)

    def _reserve_time(self) -> None:
        """Reserve the part of `max_minutes` that the final scoring needs."""
        if self.final_scoring is not None:
            reserved_seconds = self.final_scoring.reserved_seconds(self.seconds_per_line)
            self.planner.reserved_seconds = reserved_seconds

    def _examine_plan(self) -> None:
        """Plan the number of updates, or revise it, on all ranks."""
        if self.planner.is_complete(self.state):
            return
        self._update_elapsed_time()
        self._revise_plan(self.runtime.broadcast(self.planner.allowed_steps(self.state)))

    def _revise_plan(self, total_steps: int | None) -> None:
        """Give the plan another number of updates, if it is known and differs enough."""
        record = self.planner.revise(total_steps, step=self.state.step)
        if record is not None:
            self.log.write(record)

    # Validation

    def _validate_and_save(self) -> None:
        """Validate on all ranks, each with its share of the text, and save a checkpoint.

        When a signal asks to stop, the validation is left to the resumed run.
        """
        state = self.state
        self.log.console.show_activity("validating")
        self._check_weights()
        start_time = self.clock()
        validation = self._validate_until_signal()
        if validation is None:
            return

        self._update_elapsed_time()
        state.last_validated_step = state.step
        state_before = replace(state)
        score = validation.selection_score(self.config.metric)
        is_best = state.is_improved_by(score, loss=validation.loss)
        if is_best:
            state.best_score = score
            state.best_loss = validation.loss if math.isfinite(validation.loss) else None
            state.validations_without_improvement = 0
        else:
            state.validations_without_improvement += 1

        # So that validation time does not lower the logged tokens per second.
        self.log.restart_speed_measurement()
        self.planner.count_validation(state, seconds=self.clock() - start_time)
        self.seconds_per_line = validation.seconds_per_line
        self._reserve_time()
        self.log.log_validation(ValidationRecord(state.epoch, validation, is_best))
        error = self._save(is_best=is_best)
        if error is not None and is_best:
            # The checkpoint was not saved, so its score must not count as the best.
            self.unsaved_best = replace(state)
            state.assign(state_before)

    def _check_weights(self) -> None:
        """Raise TrainingError when a weight is not finite."""
        weights = self.objective.transformer.state_dict().values()
        if not torch.stack([weight.isfinite().all() for weight in weights]).all():
            self._raise_diverged("some weights are not finite")

    def _validate_until_signal(self) -> Validation | None:
        """Return the validation, or None if a signal asks to stop before it is complete."""
        self.objective.eval()
        averages = nullcontext() if self.ema is None else self.ema.applied()
        try:
            with averages:
                return self.validate(self.objective, interrupting=self.signals.interrupting)
        except InterruptedBySignal:
            return None
        except TrainingError:
            self._raise_diverged("the model computes numbers that are not finite")
        finally:
            self.objective.train()

    def _score_best(self) -> None:
        """Score the best checkpoint as `mt evaluate` does, on all ranks.

        When a signal asks to stop, this is left to the resumed run.
        """
        self._exchange_signals_and_plan()
        if self.final_scoring is None or self.stop_signal is not None:
            return
        final = self._final_score_until_signal(self.final_scoring)
        self._update_elapsed_time()
        if final is not None:
            self.log.log_final_score(final)
        self._exchange_signals_and_plan()

    def _final_score_until_signal(self, final_scoring: FinalScoring) -> FinalRecord | None:
        """Return the final score, or None if a signal asks to stop or there is none."""
        step = self.state.step
        lines = [line for line in self.earlier_final_scores if line["step"] == step]
        lines += self.log.metrics.history().valid
        try:
            return final_scoring.score(
                lines,
                seconds_per_line=self.seconds_per_line,
                interrupting=self.signals.interrupting,
            )
        except InterruptedBySignal:
            return None
        except MtError as error:  # the training itself is done
            self.log.record_incident(f"no final score: {error}")
            return None

    # Saving

    def _save(self, *, is_best: bool) -> DiskError | None:
        """Save a checkpoint (see `Checkpointer.save`).

        Raises TrainingError for weights that are not finite.
        """
        self._check_weights()
        return self.checkpointer.save(is_best=is_best)

    def _raise_diverged(self, cause: str) -> NoReturn:
        """Raise TrainingError with the last good checkpoint and what may help."""
        if self.checkpointer.last_saved_step:
            last = self.run_dir.checkpoints_dir / step_name(self.checkpointer.last_saved_step)
            checkpoint_text = f"the last good checkpoint is {last}"
        else:
            checkpoint_text = "there is no good checkpoint yet"
        raise TrainingError(
            f"stopped at update {self.state.step:,}: {cause}; {checkpoint_text}; "
            "try a lower train.learning_rate, a larger train.warmup_steps and "
            "train.max_warmup_fraction, train.clip_norm of at most 1, or train.precision fp32"
        )


def dropout_seed(seed: int, rank: int) -> int:
    """Return the seed of a rank's dropout, which differs from those of other ranks and seeds.

    Rank 0 has `seed + 1`, so that it does not repeat the random numbers of the initial weights.
    """
    if rank == 0:
        return seed + 1
    digest = hashlib.sha256(f"dropout {seed} {rank}".encode()).digest()
    return int.from_bytes(digest[:7], "little")
