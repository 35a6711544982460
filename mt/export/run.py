"""The run that is exported: its config, its weights and where they come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mt.config.load import load_run_config
from mt.config.schema import Config
from mt.decoding.translator import Translator
from mt.errors import ConfigError
from mt.storage.checkpoint import find_checkpoint
from mt.storage.run_dir import RunDir, open_run_dir


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

    @property
    def tokenizer_paths(self) -> list[Path]:
        """The tokenizer models of the run, each once."""
        return sorted(set(self.run_dir.tokenizer_paths(self.config.tokenizer.joint)))

    def refuse(self, problem: str) -> ConfigError:
        """Return the error for a setting of the run that a format cannot represent."""
        return ConfigError(f"{self.run_dir.config_path}: {problem}")
