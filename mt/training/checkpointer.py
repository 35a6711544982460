"""Saving and restoring of a run: what a checkpoint holds, and how a run continues from it.

Between two updates a run is described completely by the weights, the optimizer, the counters, the
plan and the random states. `Checkpointer.save` writes them and `Checkpointer.restore` reads them,
so a resumed run computes what an uninterrupted one would have computed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt, TypeAdapter
from torch import Tensor

from mt.data.dataset import Dataset
from mt.distributed import Runtime
from mt.errors import CheckpointError, DiskError
from mt.storage.checkpoint import Checkpoint, CheckpointStore
from mt.training.ema import MovingAverage
from mt.training.objective import Objective
from mt.training.optimizer import pack_optimizer, unpack_optimizer
from mt.training.planner import RunPlanner
from mt.training.resume_rules import check_same_teachers
from mt.training.run_log import RunLog
from mt.training.state import LogWindow, TrainState
from mt.wording import count_of

# Name of the BPE-dropout method, stored in checkpoints.
SUBWORD_SAMPLING = "groups of batches"


@dataclass(eq=False)
class Checkpointer:
    """Saves the parts of a run to its checkpoints, and restores them in place."""

    store: CheckpointStore
    objective: Objective
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: MovingAverage | None
    state: TrainState
    planner: RunPlanner
    window: LogWindow
    log: RunLog
    runtime: Runtime
    # What the run reads; digests in a checkpoint identify it.
    dataset: Dataset
    valid_digest: str
    last_saved_step: int = 0

    def save(self, *, is_best: bool) -> DiskError | None:
        """Save a checkpoint; `restore` is its inverse.

        Returns the DiskError if the checkpoint could not be written, because training can continue
        without it. All ranks get the same result.
        """
        runtime = self.runtime
        rank_state = {"random": runtime.random_state(), "window": self.window.save()}
        rank_states = runtime.all_gather(rank_state)
        error: DiskError | None = None
        if runtime.is_main:
            try:
                checkpoint = self._make_checkpoint(rank_states)
                self.store.save(checkpoint, step=self.state.step, is_best=is_best)
            except DiskError as disk_error:
                error = disk_error
                self.log.record_incident(f"no checkpoint of update {self.state.step:,}: {error}")
        error = runtime.broadcast(error)
        if error is None:
            self.last_saved_step = self.state.step
        return error

    def _make_checkpoint(self, rank_states: Sequence[Mapping[str, Any]]) -> Checkpoint:
        """Return what a checkpoint holds of this run. Raises DiskError.

        `rank_states` has what differs between the ranks.
        """
        transformer = self.objective.transformer
        meta = {
            "state": asdict(self.state),
            **self.planner.save(),
            "scaler": self.scaler.state_dict(),
            "batches_per_update": self.planner.batches_per_update,
            "ranks": rank_states,
            "data_digest": self.dataset.digest,
            "valid_digest": self.valid_digest,
            "teacher_digests": list(self.objective.teacher_digests),
            "subword_sampling": SUBWORD_SAMPLING,
            "metrics_size": self.log.metrics.sync(),
            "environment": self.runtime.environment(),
        }
        averages: dict[str, Tensor] = {}
        if self.ema is not None:
            averages = self.ema.averages
            meta["ema_updates"] = int(self.ema.num_updates)
        optimizer = pack_optimizer(self.optimizer, transformer)
        return Checkpoint(transformer.state_dict(), optimizer, meta, averages)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore what `save` saved. Raises CheckpointError when it does not fit this run."""
        meta = checkpoint.meta
        path = self.store.path
        check_same_teachers(meta, self.objective.teacher_digests, path)
        try:
            ranks = meta["ranks"]
            self._restore_parts(checkpoint)
            self._restore_rank(ranks)
            has_same_batches = meta["subword_sampling"] == SUBWORD_SAMPLING
            metrics_size = int(meta["metrics_size"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            cause = " ".join(str(error).split())  # torch's message has several lines
            raise CheckpointError(
                f"{path}: the checkpoint does not fit this run ({cause})"
            ) from error
        self.last_saved_step = self.state.step
        self._restore_metrics(metrics_size)
        self._warn_if_number_of_ranks_changed(len(ranks))
        self._warn_if_environment_changed(meta.get("environment"))
        if not has_same_batches:
            self._skip_rest_of_old_epoch()

    def restore_newest(self) -> None:
        """Restore the newest checkpoint that is intact. Raises CheckpointError."""
        checkpoint, load_errors = self.store.load_newest()
        self.restore(checkpoint)
        step = self.state.step
        if self.runtime.is_main:
            self.store.repair_pointers(step)
        for error in load_errors:
            self.log.record_incident(f"{error}; resuming from update {step:,} instead")

    def _restore_parts(self, checkpoint: Checkpoint) -> None:
        """Restore what all ranks share."""
        meta = checkpoint.meta
        transformer = self.objective.transformer
        # Earlier versions of mt did not save the number of batches.
        batches_per_update = self.planner.config.gradient_accumulation * len(meta["ranks"])
        self.planner.batches_per_update = TypeAdapter(PositiveInt).validate_python(
            meta.get("batches_per_update", batches_per_update), strict=True
        )
        self.state.assign(TypeAdapter(TrainState).validate_python(meta["state"]))
        self.planner.restore(meta)
        self.scaler.load_state_dict(meta["scaler"])
        transformer.load_state_dict(checkpoint.model)
        unpack_optimizer(self.optimizer, transformer, checkpoint.optimizer)
        if self.ema is not None:
            num_updates = TypeAdapter(NonNegativeInt).validate_python(
                meta["ema_updates"], strict=True
            )
            self.ema.load(checkpoint.ema, num_updates)

    def _restore_rank(self, ranks: Sequence[Mapping[str, Any]]) -> None:
        """Restore the random state and the log window of this rank.

        On another number of ranks, a rank that is new keeps its initial random state.
        """
        rank = self.runtime.rank
        if len(ranks) == self.runtime.world_size:
            self.window.load(ranks[rank]["window"])
        else:
            windows = [saved["window"] for saved in ranks]
            self.window.load_from_other_ranks(windows, rank=rank)
        if rank < len(ranks):
            self.runtime.set_random_state(ranks[rank]["random"])

    def _restore_metrics(self, size: int) -> None:
        """Cut metrics.jsonl back to its size at the checkpoint, on rank 0 only."""
        metrics = self.log.metrics
        if self.runtime.is_main and not metrics.cut_back(size, step=self.state.step):
            self.log.record_incident(
                f"{metrics.path}: lines are missing or were changed; the complete ones were kept"
            )

    def _skip_rest_of_old_epoch(self) -> None:
        """Continue at the start of the next epoch, if the batches of this one cannot be repeated.

        Earlier versions of mt sampled the subwords of a whole epoch at once and planned its batches
        with the new lengths. Without BPE-dropout, the batches are the same.
        """
        state = self.state
        if not self.dataset.has_bpe_dropout or state.batch_index == 0:
            return
        self.log.record_incident(
            "an earlier version of mt, with another kind of BPE-dropout, saved this checkpoint in "
            f"the middle of epoch {state.epoch}: skipping the rest of that epoch"
        )
        state.epoch += 1
        state.batch_index = 0

    def _warn_if_number_of_ranks_changed(self, saved: int) -> None:
        """Record an incident when the run had another number of ranks."""
        world_size = self.runtime.world_size
        if saved != world_size:
            self.log.record_incident(
                f"resuming on {count_of(world_size, 'rank')} after {saved}: an update has the same "
                f"number of batches ({self.planner.batches_per_update}), but rounding and dropout "
                "differ"
            )

    def _warn_if_environment_changed(self, saved: object) -> None:
        """Record an incident when rounding may differ from that of an uninterrupted run."""
        current = self.runtime.environment()
        if not isinstance(saved, dict):
            return
        changes = [
            f"{key} {saved.get(key)} -> {value}"
            for key, value in current.items()
            if saved.get(key) != value
        ]
        if changes:
            self.log.record_incident(
                "resuming in a different environment, results may differ in the last bits: "
                + ", ".join(changes)
            )
