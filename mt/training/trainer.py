"""The loop: batches in, a trained model and its checkpoints out."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mt.checkpoint import CheckpointStore, Snapshot
from mt.config import TrainConfig
from mt.data.batching import Batch, BatchPlan
from mt.errors import CheckpointError
from mt.runtime import Runtime
from mt.training.loss import LossSums, TrainingModel
from mt.training.optim import clip_gradients, learning_rate, make_optimizer, pack_optimizer, unpack_optimizer
from mt.training.progress import Display, MetricsFile, Validation, describe_validation


@dataclass
class TrainState:
    """Where a run stands: with weights, optimizer, scaler and random states, all that it is."""

    step: int = 0  # updates done, skipped ones included
    epoch: int = 0
    batch_index: int = 0  # batches of this epoch's plan used, over all ranks
    tokens_seen: int = 0  # target tokens
    elapsed_seconds: float = 0.0
    lr_factor: float = 1.0
    best_score: float | None = None  # higher is better
    checks_without_gain: int = 0
    num_skipped: int = 0  # updates left out, their gradients not being finite
    checked_step: int = 0  # the last one validated


class Epoch(NamedTuple):
    """One pass over the training data."""

    plan: BatchPlan
    make: Callable[[int], Batch]  # the plan's batch of that index, on the CPU


# Sums over the updates since the last line in metrics.jsonl, one float32 tensor (6,) on the device, so that no update
# waits for the host. A skipped update adds to its own count alone.
WINDOW = ("loss", "nll", "num_tokens", "grad_norm", "num_updates", "num_skipped")


@dataclass(eq=False)
class Trainer:
    """Owns the model's weights, the optimizer and the state while a run lasts."""

    model: TrainingModel
    config: TrainConfig
    runtime: Runtime
    open_epoch: Callable[[int], Epoch]
    validate: Callable[[], Validation]
    store: CheckpointStore
    metrics: MetricsFile
    data_digest: str = ""  # of what `open_epoch` draws from: a run goes on with the same data only

    def __post_init__(self) -> None:
        self.wrapped = self.runtime.wrap(self.model)
        self.optimizer = make_optimizer(self.model, self.config)
        self.scaler = self.runtime.scaler()
        self.state = TrainState()
        self.window = torch.zeros(len(WINDOW), device=self.runtime.device)
        self.saved_step = 0
        self.began, self.pulse = time.monotonic(), (0.0, 0)  # when the run, and the latest window, began
        self.epoch_length = 1  # batches
        self.signal_name: str | None = None

    # The loop

    def run(self) -> str:
        """Train until a limit, a lack of gain or a signal ends it; the reason, in words."""
        state = self.state
        self.began = time.monotonic() - state.elapsed_seconds
        self.pulse = (state.elapsed_seconds, state.tokens_seen)
        self.display = Display(enabled=self.runtime.is_main, total=self.config.max_steps, step=state.step)
        with self._signals():
            while (reason := self.verdict()) is None:
                self._run_epoch()
            self.signal_name = self.runtime.broadcast(self.signal_name)  # it may have reached some ranks only
            if self.signal_name is None and state.step != state.checked_step:
                self._check()
            if state.step != self.saved_step:
                self._save(is_best=False)
        self.display.bar.close()
        return reason

    def verdict(self) -> str | None:
        """Why to stop now, or None; the same on every rank, at a boundary between updates."""
        state, config = self.state, self.config
        reasons = [f"{name} {top:g} reached" for name, (at, top) in self.limits.items() if at >= top]
        if config.patience is not None and state.checks_without_gain >= config.patience:
            reasons.append(f"no gain in {state.checks_without_gain} validations")
        if self.signal_name is not None:
            reasons.append(f"stopped by {self.signal_name}")
        return self.runtime.broadcast(reasons[0] if reasons else None)

    def _run_epoch(self) -> None:
        """Go on in the current epoch to its end, or to the verdict."""
        state, config = self.state, self.config
        epoch = self.open_epoch(state.epoch)
        self.epoch_length = epoch.plan.num_batches
        stride = config.accumulate * self.runtime.world_size
        self.wrapped.train()
        while self.verdict() is None:
            end = min(state.batch_index + stride, epoch.plan.num_batches)
            self.update(epoch, range(state.batch_index, end))
            state.batch_index = end
            at_end = end == epoch.plan.num_batches
            if at_end:
                state.epoch, state.batch_index = state.epoch + 1, 0
            self._after_update()
            if at_end:
                return

    def _after_update(self) -> None:
        """Log, validate and save, each when it is due."""
        state, config = self.state, self.config
        state.elapsed_seconds = time.monotonic() - self.began
        self.display.advance(state.step)
        if state.step % config.log_every == 0:
            self._log()
        if state.step % config.validate_every == 0:
            self._check()
        elif config.save_every is not None and state.step % config.save_every == 0 and self.verdict() is None:
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
                    sums: LossSums = self.wrapped(epoch.make(index).to(runtime.device))
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
        good = torch.isfinite(norm)
        # The fused kernels skip the update, on the device, where this is 1; an enabled scaler sets its own.
        self.optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        one, zero = torch.ones_like(norm), torch.zeros_like(norm)
        seen, skipped = torch.stack((loss, nll, num_tokens * one, norm, one, zero)), torch.stack((*[zero] * 5, one))
        self.window += torch.where(good, seen, skipped)

    @property
    def rate(self) -> float:
        """The learning rate of the update that `state.step` counts as the latest."""
        return learning_rate(self.state.step, self.config) * self.state.lr_factor

    # What is written down

    def _log(self) -> None:
        """Close the window: a line in metrics.jsonl, and the display's pulse."""
        state = self.state
        self.runtime.all_sum(self.window[:2])  # ranks have different losses; all else is the same on each
        loss, nll, num_tokens, grad_norm, num_updates, num_skipped = self.window.tolist()
        state.num_skipped += int(num_skipped)
        values = {
            "epoch": state.epoch,
            "loss": loss / max(num_tokens, 1.0),
            "nll": nll / max(num_tokens, 1.0),
            "lr": self.rate,
            "grad_norm": grad_norm / max(num_updates, 1.0),
            "tokens_seen": state.tokens_seen,
            "num_skipped": state.num_skipped,
        }
        speed = (state.tokens_seen - self.pulse[1]) / max(state.elapsed_seconds - self.pulse[0], 1e-9)
        self.window.zero_()
        self.pulse = (state.elapsed_seconds, state.tokens_seen)
        if self.runtime.is_main:
            timing = {"elapsed_seconds": state.elapsed_seconds, "tokens_per_second": speed}
            self.metrics.append("train", state.step, values, timing)
            self.display.show(
                state.step, loss=values["loss"], lr=self.rate, tokens_per_second=speed, seconds_left=self.seconds_left
            )

    def _check(self) -> None:
        """Validate on rank 0, tell the others, and save."""
        self.model.eval()
        found = self.runtime.broadcast(self.validate() if self.runtime.is_main else None)
        self.wrapped.train()
        assert found is not None, "rank 0 broadcast no validation"
        state = self.state
        score = found.merit(self.config.metric)
        is_best = score > (-math.inf if state.best_score is None else state.best_score)  # never when it is NaN
        if is_best:
            state.best_score = score
        state.checks_without_gain = 0 if is_best else state.checks_without_gain + 1
        state.checked_step = state.step
        state.elapsed_seconds = time.monotonic() - self.began
        self.pulse = (state.elapsed_seconds, state.tokens_seen)  # validating is not slow training
        if self.runtime.is_main:
            values = {"epoch": state.epoch, **found.as_json(), "is_best": is_best}
            self.metrics.append("valid", state.step, values, {"elapsed_seconds": state.elapsed_seconds})
            self.display.say(describe_validation(state.step, found, is_best=is_best))
        self._save(is_best=is_best)

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Of each limit that is set: where the run stands, and where it ends."""
        state = self.state
        at = {"max_steps": state.step, "max_minutes": state.elapsed_seconds / 60.0}
        at["max_epochs"] = state.epoch + state.batch_index / self.epoch_length
        return {name: (at[name], top) for name in at if (top := getattr(self.config, name)) is not None}

    @property
    def seconds_left(self) -> float:
        """Until the limit that comes first, at the pace so far; 0 before the first update."""
        left = (self.state.elapsed_seconds * (top / at - 1.0) for at, top in self.limits.values() if at > 0.0)
        return max(0.0, min(left, default=0.0))

    # Save and restore, each other's mirror

    def _save(self, *, is_best: bool) -> None:
        ranks = self.runtime.gather({"random": self.runtime.random_state(), "window": self.window.tolist()})
        if self.runtime.is_main:
            meta = {
                "state": asdict(self.state),
                "scaler": self.scaler.state_dict(),
                "ranks": ranks,
                "data_digest": self.data_digest,
                "metrics_size": self.metrics.size,
            }
            snapshot = Snapshot(self.model.transformer.state_dict(), pack_optimizer(self.optimizer), meta)
            self.store.save(snapshot, step=self.state.step, is_best=is_best)
        self.saved_step = self.state.step

    def restore(self, snapshot: Snapshot) -> None:
        """Be where the run was when `snapshot` was saved."""
        meta, runtime = snapshot.meta, self.runtime
        if (begun := len(meta["ranks"])) != (now := runtime.world_size):
            raise CheckpointError(
                f"{self.store.path}: begun on {begun} ranks, and goes on with as many only, not with {now}"
            )
        if meta["data_digest"] != self.data_digest:
            raise CheckpointError(
                f"{self.store.path}: the training text has changed since the run began; choose another --run-dir"
            )
        rank = meta["ranks"][runtime.rank]
        self.state = TrainState(**meta["state"])
        self.window = torch.tensor(rank["window"], device=runtime.device)
        self.scaler.load_state_dict(meta["scaler"])
        runtime.set_random_state(rank["random"])
        if runtime.is_main:
            self.metrics.truncate(meta["metrics_size"])
        self.model.transformer.load_state_dict(snapshot.model)
        unpack_optimizer(self.optimizer, snapshot.optimizer)
        self.saved_step = self.state.step

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run at the next boundary; a second one ends it at once."""

        def remember(number: int, frame: object) -> None:
            if self.signal_name is not None:
                raise KeyboardInterrupt
            self.signal_name = signal.Signals(number).name
            if self.runtime.is_main:  # straight to stderr, whose buffer the signal may have found half written
                os.write(2, f"{self.signal_name}: saving after this update (again: leave at once)\n".encode())

        before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
