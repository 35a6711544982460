"""The loop: batches in, a trained model and its checkpoints out."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from pydantic import TypeAdapter
from torch import Tensor

from mt.config.schema import TrainConfig
from mt.data.dataset import Epoch
from mt.distributed import Runtime
from mt.errors import CheckpointError, DiskError, TrainingError
from mt.storage.checkpoint import Checkpoint, CheckpointStore
from mt.training.memory_check import check_memory
from mt.training.metrics_log import Display, MetricsFile, Validation, describe_validation
from mt.training.objective import LossSums, Objective
from mt.training.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    pack_optimizer,
    unpack_optimizer,
)
from mt.training.signals import Signals
from mt.training.state import TrainState, Window


@dataclass(eq=False)
class Trainer:
    """Owns the model's weights, the optimizer and the state while a run lasts."""

    model: Objective
    config: TrainConfig
    runtime: Runtime
    open_epoch: Callable[[int, int], Epoch]  # (number, batch_tokens) -> its batches
    validate: Callable[[], Validation]
    store: CheckpointStore
    metrics: MetricsFile
    data_digest: str = ""  # of what `open_epoch` draws from: a run goes on with the same data only

    def __post_init__(self) -> None:
        self.wrapped = self.runtime.wrap(self.model)
        self.optimizer = build_optimizer(self.model, self.config)
        self.scaler = self.runtime.scaler()
        self.state = TrainState()
        self.window = Window(self.runtime.device)
        self.saved_step = 0
        self.began, self.pulse = (
            time.monotonic(),
            (0.0, 0),
        )  # when the run, and the latest window, began
        self.epoch_length = math.inf  # batches; not known before the first is made
        self.is_rehearsed = False  # that the largest batches have been tried
        self.signals = Signals(announce=self.runtime.is_main)
        self.display = Display(enabled=self.runtime.is_main)

    # The loop

    def run(self) -> str:
        """Train until a limit, a lack of gain or a signal ends it; the reason, in words.

        Raises TrainingError when the numbers have run away, DiskError when the end of the run cannot be saved.
        """
        state = self.state
        self.began = time.monotonic() - state.elapsed_seconds
        self.pulse = (state.elapsed_seconds, state.tokens_seen)
        with self.signals.caught(), self.display.bar_to(self.config.max_steps, step=state.step):
            while (reason := self.verdict()) is None:
                self._run_epoch()
            self.signals.name = self.runtime.broadcast(
                self.signals.name
            )  # it may have reached some ranks only
            if self.signals.name is None and state.step != state.last_validated_step:
                self._check()
            if state.step != self.saved_step and (error := self._save(is_best=False)) is not None:
                raise error
        return reason

    def verdict(self) -> str | None:
        """Why to stop now, or None; the same on every rank, at a boundary between updates."""
        state, config = self.state, self.config
        reasons = [
            f"{name} {top:.10g} reached" for name, (at, top) in self.limits.items() if at >= top
        ]
        if config.patience is not None and state.validations_without_improvement >= config.patience:
            reasons.append(f"no gain in {state.validations_without_improvement} validations")
        if self.signals.name is not None:
            reasons.append(f"stopped by {self.signals.name}")
        return self.runtime.broadcast(reasons[0] if reasons else None)

    def _run_epoch(self) -> None:
        """Go on in the current epoch to its end, or to the verdict."""
        state, config = self.state, self.config
        number, epoch = state.epoch, self.open_epoch(state.epoch, config.batch_tokens)
        self.epoch_length = epoch.plan.num_batches
        if state.batch_index >= self.epoch_length:
            raise CheckpointError(
                f"{self.store.path}: made with other batches: epoch {state.epoch} ends before them"
            )
        if not self.is_rehearsed:
            reopen, begun = partial(self.open_epoch, state.epoch), bool(self.optimizer.state)
            check_memory(
                self.model,
                epoch,
                self.runtime,
                reopen=reopen,
                batch_tokens=config.batch_tokens,
                begun=begun,
            )
            self.is_rehearsed = True
        stride = config.gradient_accumulation * self.runtime.world_size
        self.wrapped.train()
        while state.epoch == number and self.verdict() is None:
            end = min(state.batch_index + stride, epoch.plan.num_batches)
            self.update(epoch, range(state.batch_index, end))
            state.batch_index = end
            if end == epoch.plan.num_batches:
                state.epoch, state.batch_index = state.epoch + 1, 0
            self._after_update()

    def _after_update(self) -> None:
        """Log, validate and save, each when it is due."""
        state, config = self.state, self.config
        state.elapsed_seconds = time.monotonic() - self.began
        self.display.advance(state.step)
        if state.step % config.log_every == 0:
            self._log()
        if state.step % config.validate_every == 0:
            self._check()
        elif (
            config.save_every is not None
            and state.step % config.save_every == 0
            and self.verdict() is None
        ):
            self._save(is_best=False)

    def update(self, epoch: Epoch, indices: range) -> None:
        """One step of the optimizer on the batches `indices` of the plan, shared out among the ranks.

        The result equals one big batch: each micro-batch's summed loss is divided by the update's target tokens.
        """
        runtime, state = self.runtime, self.state
        num_tokens = int(epoch.plan.num_tokens[indices.start : indices.stop].sum())
        mine = indices[runtime.rank :: runtime.world_size]
        # A rank without a batch of its own runs one of weight zero, to take part in the exchange.
        weight = float(len(mine) > 0)
        loss = nll = torch.zeros((), device=runtime.device)
        for index in mine or indices[:1]:
            is_last = index + runtime.world_size >= indices.stop
            with nullcontext() if is_last else runtime.no_sync(self.wrapped):
                with runtime.autocast():
                    sums: LossSums = self.wrapped(epoch.batch(index).to(runtime.device))
                scaled = self.scaler.scale(sums.loss * (weight * runtime.world_size / num_tokens))
                scaled.backward()  # type: ignore[no-untyped-call]
            loss, nll = loss + weight * sums.loss.detach(), nll + weight * sums.nll
        state.step += 1
        state.tokens_seen += num_tokens
        self._step(loss, nll, num_tokens)

    def _step(self, loss: Tensor, nll: Tensor, num_tokens: int) -> None:
        """Unscale, clip, set the learning rate, step, zero; a gradient that is not finite changes nothing."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.model, self.config.clip_norm)
        # The fused kernels skip the update, on the device, where this is 1; an enabled scaler sets its own.
        self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.window.add(loss, nll, num_tokens=num_tokens, grad_norm=norm)

    @property
    def rate(self) -> float:
        """The learning rate of the update that `state.step` counts as the latest."""
        return learning_rate(self.state.step, self.config)

    # What is written down

    def _log(self) -> None:
        """Close the window: a line in metrics.jsonl, and the display's pulse."""
        state, sums = self.state, self.window.close(self.runtime)
        state.num_skipped += int(sums.num_skipped)
        values = {
            "epoch": state.epoch,
            "loss": sums.loss / sums.num_tokens if sums.num_tokens else math.nan,
            "nll": sums.nll / sums.num_tokens if sums.num_tokens else math.nan,
            "lr": self.rate,
            "grad_norm": sums.grad_norm / sums.num_updates if sums.num_updates else math.nan,
            "tokens_seen": state.tokens_seen,
            "num_skipped": state.num_skipped,
        }
        speed = (state.tokens_seen - self.pulse[1]) / max(
            state.elapsed_seconds - self.pulse[0], 1e-9
        )
        self.pulse = (state.elapsed_seconds, state.tokens_seen)
        self._write(
            "train", values, tokens_per_second=speed, peak_memory=self.runtime.peak_memory()
        )
        self.display.show(
            state.step,
            loss=values["loss"],
            lr=self.rate,
            tokens_per_second=speed,
            seconds_left=self.seconds_left,
        )
        if sums.num_skipped and not self.scaler.is_enabled():  # which skips a few to find its scale
            plural = "s" * (sums.num_skipped > 1)
            self.report(
                f"{sums.num_skipped:,.0f} update{plural} skipped: gradients were not finite"
            )
        if sums.skipped_in_a_row >= self.config.max_skipped:
            self._give_up(
                f"{sums.skipped_in_a_row:,.0f} updates in a row had gradients that were not finite"
            )

    def report(self, text: str) -> None:
        """An incident: a line for the user, one in metrics.jsonl, and so one in the summary at the end."""
        self._write("incident", {"text": text})
        self.display.say(f"warning: {text}")

    def _write(self, kind: str, values: dict[str, Any], **timed: float) -> None:
        """A line of metrics.jsonl, from rank 0; `timed` is what no two runs have in common."""
        if self.runtime.is_main:
            self.metrics.append(
                kind,
                self.state.step,
                values,
                {"elapsed_seconds": self.state.elapsed_seconds, **timed},
            )

    def _give_up(self, why: str) -> NoReturn:
        last = self.store.path / f"step_{self.saved_step:08d}"
        kept = (
            f"the last good checkpoint is {last}"
            if self.saved_step
            else "there is no good checkpoint yet"
        )
        ways = "a lower train.learning_rate, a longer train.warmup_steps, a train.clip_norm, or train.precision fp32"
        raise TrainingError(
            f"stopped at update {self.state.step:,}: {why}; {kept}; what may help: {ways}"
        )

    def _check(self) -> None:
        """Validate on rank 0, tell the others, and save."""
        self.model.eval()
        found = self.runtime.broadcast(self.validate() if self.runtime.is_main else None)
        self.wrapped.train()
        assert found is not None, "rank 0 broadcast no validation"
        state = self.state
        score, best_before = found.selection_score(self.config.metric), state.best_score
        is_best = score > (
            -math.inf if best_before is None else best_before
        )  # never when it is NaN
        if is_best:
            state.best_score = score
        state.validations_without_improvement = (
            0 if is_best else state.validations_without_improvement + 1
        )
        state.last_validated_step = state.step
        state.elapsed_seconds = time.monotonic() - self.began
        self.pulse = (state.elapsed_seconds, state.tokens_seen)  # validating is not slow training
        self._write("valid", {"epoch": state.epoch, **found.as_json(), "is_best": is_best})
        self.display.say(describe_validation(state.step, found, is_best=is_best))
        if self._save(is_best=is_best) is not None:
            state.best_score = best_before  # what is best is what can be had

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Of each limit that is set: where the run stands, and where it ends."""
        state = self.state
        at = {"max_steps": state.step, "max_minutes": state.elapsed_seconds / 60.0}
        at["max_epochs"] = state.epoch + state.batch_index / self.epoch_length
        return {
            name: (at[name], top) for name in at if (top := getattr(self.config, name)) is not None
        }

    @property
    def seconds_left(self) -> float:
        """Until the limit that comes first, at the pace so far; 0 before the first update."""
        left = (
            self.state.elapsed_seconds * (top / at - 1.0)
            for at, top in self.limits.values()
            if at > 0.0
        )
        return max(0.0, min(left, default=0.0))

    # Save and restore, each other's mirror

    def _save(self, *, is_best: bool) -> DiskError | None:
        """Keep all that the run is. What a full disk said, for training goes on without; the same on every rank."""
        weights = self.model.transformer.state_dict()
        if not torch.stack([weight.isfinite().all() for weight in weights.values()]).all():
            self._give_up("some weights are not finite")
        ranks = self.runtime.gather(
            {"random": self.runtime.random_state(), "window": self.window.save()}
        )
        error: DiskError | None = None
        if self.runtime.is_main:
            try:
                meta = {
                    "state": asdict(self.state),
                    "scaler": self.scaler.state_dict(),
                    "ranks": ranks,
                    "data_digest": self.data_digest,
                    "metrics_size": self.metrics.sync(),
                    "environment": self.runtime.environment(),
                }
                snapshot = Checkpoint(
                    weights, pack_optimizer(self.optimizer, self.model.transformer), meta
                )
                self.store.save(snapshot, step=self.state.step, is_best=is_best)
            except DiskError as refused:
                error = refused
                self.report(f"no checkpoint of update {self.state.step:,}: {error}")
        error = self.runtime.broadcast(error)
        if error is None:
            self.saved_step = self.state.step
        return error

    def restore(self, snapshot: Checkpoint) -> None:
        """Be where the run was when `snapshot` was saved. Raises CheckpointError for one that does not fit it."""
        meta, runtime, path = snapshot.meta, self.runtime, self.store.path
        try:
            if (begun := len(meta["ranks"])) != (now := runtime.world_size):
                raise CheckpointError(
                    f"{path}: begun on {begun} ranks, and goes on with as many only, not with {now}"
                )
            if meta["data_digest"] != self.data_digest:
                raise CheckpointError(
                    f"{path}: the training text has changed since the run began; choose another --run-dir"
                )
            rank = meta["ranks"][runtime.rank]
            self.state = TypeAdapter(TrainState).validate_python(meta["state"])
            self.window = Window.restore(rank["window"], runtime.device)
            self.scaler.load_state_dict(meta["scaler"])
            self.model.transformer.load_state_dict(snapshot.model)
            unpack_optimizer(self.optimizer, self.model.transformer, snapshot.optimizer)
            runtime.set_random_state(rank["random"])
            if runtime.is_main:
                self.metrics.truncate(int(meta["metrics_size"]))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())  # torch lists tensors on lines of their own
            raise CheckpointError(
                f"{path}: this checkpoint is not one of this run ({reason})"
            ) from error
        self.saved_step = self.state.step
        self._compare_environments(meta.get("environment"))

    def _compare_environments(self, before: object) -> None:
        """Say so when the run goes on where sums may end in other bits."""
        now = self.runtime.environment()
        if isinstance(before, dict) and (
            changed := [key for key in now if before.get(key) != now[key]]
        ):
            listed = ", ".join(f"{key} {before.get(key)} -> {now[key]}" for key in changed)
            self.report(f"goes on elsewhere, so not bit for bit as if uninterrupted: {listed}")
