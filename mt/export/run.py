"""The run that is exported: its config, and the weights and scores of one checkpoint."""

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from mt.config.load import load_run_config
from mt.config.schema import Config
from mt.decoding.translator import Translator
from mt.errors import ConfigError
from mt.export.portable_config import dump_portable_config
from mt.storage.checkpoint import STEP_NAME, find_checkpoint, load_meta, step_name, step_of
from mt.storage.run_dir import RunDir, open_run_dir
from mt.training.metrics_log import MetricsLine, read_metrics_log


@dataclass(frozen=True)
class ExportedRun:
    """A run with the translator of one of its checkpoints, on the CPU in float32.

    If the checkpoint has moving averages of the weights, the translator has these.
    """

    run_dir: RunDir
    config: Config
    checkpoint: Path
    translator: Translator

    @classmethod
    def load(cls, run_dir: Path, *, checkpoint: str) -> Self:
        """Load a run. Raises MtError when there is none."""
        run = open_run_dir(run_dir)
        return cls(
            run_dir=run,
            config=load_run_config(run.config_path),
            checkpoint=find_checkpoint(run.checkpoints_dir, checkpoint),
            translator=Translator.load(run_dir, checkpoint=checkpoint, device="cpu"),
        )

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The content of the checkpoint's meta.json."""
        return load_meta(self.checkpoint)

    @property
    def step(self) -> int:
        """The number of updates of the weights; of an average, that of its first checkpoint."""
        if STEP_NAME.fullmatch(self.checkpoint.name):
            return step_of(self.checkpoint)
        return int(self.meta.get("state", {}).get("step", 0))

    @property
    def scores_line(self) -> MetricsLine | None:
        """The line of metrics.jsonl with scores of the checkpoint; None if there is none."""
        if self.checkpoint.parent != self.run_dir.checkpoints_dir:
            return None  # the checkpoint is of another run
        history = read_metrics_log(self.run_dir.metrics_path)
        name = self.checkpoint.name
        lines = [line for line in history.final if line.get("checkpoint") == name]
        if not lines:
            lines = [line for line in history.valid if step_name(line["step"]) == name]
        with_scores = [line for line in lines if line.get("signatures")]
        return with_scores[-1] if with_scores else None

    @property
    def tokenizer_paths(self) -> list[Path]:
        """The tokenizer models of the run, each once."""
        return sorted(set(self.run_dir.tokenizer_paths(self.config.tokenizer.joint)))

    def write_text_settings(self, directory: Path) -> None:
        """Write the portable config, the tokenizers and the statistics of the sources."""
        exported = RunDir(directory)
        exported.config_path.write_text(dump_portable_config(self.config), encoding="utf-8")
        for tokenizer in self.tokenizer_paths:
            shutil.copy(tokenizer, directory)
        if self.run_dir.source_stats_path.is_file():
            shutil.copy(self.run_dir.source_stats_path, exported.source_stats_path)

    def config_error(self, problem: str) -> ConfigError:
        """Return the error for a setting of the run that a format cannot represent."""
        return ConfigError(f"{self.run_dir.config_path}: {problem}")
