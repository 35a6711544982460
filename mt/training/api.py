"""`mt.train`: a training inside a Python program, such as a notebook."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt.config.load import config_from_values
from mt.config.schema import Config
from mt.decoding.translator import Translator
from mt.storage.checkpoint import step_name
from mt.storage.run_dir import RunDir
from mt.training.metrics_log import (
    MetricsHistory,
    MetricsLine,
    OnEvent,
    ScoreScope,
    read_metrics_log,
    read_scope,
    read_scores,
)
from mt.training.run import read_config, run_training


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind. Without a validation, there is no best checkpoint."""

    run_dir: Path
    stop_reason: str  # such as "max_steps 2300 reached"
    stop_signal: str | None  # the name of the signal that stopped training early
    best_step: int | None  # updates before the best checkpoint
    best_loss: float | None  # of the best checkpoint: nats per target token of the validation set
    # Scores of the best checkpoint on the validation set, such as {"BLEU": 31.2, "chrF": 55.5}:
    # those at the end of the run, or of a validation if a signal stopped the run.
    best_scores: Mapping[str, float]
    best_signatures: Mapping[str, str]  # sacreBLEU's signature of each score
    best_scope: ScoreScope | None  # how many lines were scored, with which beam size

    def translator(self, checkpoint: str = "best", *, device: str = "auto") -> Translator:
        """Return the translator of a checkpoint of the run (see `Translator.load`)."""
        return Translator.load(self.run_dir, checkpoint=checkpoint, device=device)


def train(
    config: Config | Mapping[str, Any] | str | Path, *, on_event: OnEvent | None = None
) -> TrainingResult:
    """Train as `mt train` does: from the start, or from the last checkpoint of the run directory.

    `config` is the path of a config file, the content of one as a dict, or what `load_config`
    returned. A dict or a Config needs `train.run_dir`; a file has the default `runs/<its name>`.

    `on_event` is called in this thread with a `TrainingEvent` for each line of metrics.jsonl. What
    it raises ends the training and reaches the caller. The updates since the last checkpoint are
    lost; the same call resumes from there.

    In the main thread, Ctrl-C (or a notebook's "interrupt") saves after the current update, and
    `train` returns with `stop_signal` "SIGINT". In another thread, signals are not looked at.

    Seeds PyTorch's generator, and changes this process as `mt.distributed.open_runtime` does.
    Raises MtError.
    """
    if isinstance(config, str | Path):
        config = read_config(Path(config), run_dir=None, device=None)
    elif not isinstance(config, Config):
        config = config_from_values(config)
    end = run_training(config, on_event=on_event)
    history = read_metrics_log(RunDir(end.run_dir).metrics_path)
    best = _best_validation(history)
    scored = _final_score(history, best)
    return TrainingResult(
        run_dir=end.run_dir,
        stop_reason=end.stop_reason,
        stop_signal=end.stop_signal,
        best_step=best.get("step"),
        best_loss=best.get("loss"),
        best_scores=read_scores(scored),
        best_signatures=scored.get("signatures", {}),
        best_scope=read_scope(scored),
    )


def _best_validation(history: MetricsHistory) -> MetricsLine:
    """Return the line of the validation with the best checkpoint; empty if there is none."""
    best = [line for line in history.valid if line.get("is_best")]
    return best[-1] if best else {}


def _final_score(history: MetricsHistory, best: MetricsLine) -> MetricsLine:
    """Return the line with the final score of the best checkpoint, else that of its validation."""
    if not best:
        return best
    final = [line for line in history.final if line.get("checkpoint") == step_name(best["step"])]
    return final[-1] if final else best
