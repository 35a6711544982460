"""mt export --to bundle: what one sends to a colleague who has mt.

A bundle is a run directory with one checkpoint and without what only the author needs: the
optimizer, the log, the cache and the places of files. So each command that reads a run reads a
bundle, and no second format has to be loaded.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from mt.export.directory import export_directory, require_replaceable
from mt.export.model_card import CardOptions, write_model_card
from mt.export.portable_config import dump_portable_config
from mt.export.run import ExportedRun
from mt.storage.checkpoint import write_weights
from mt.storage.run_dir import RunDir

logger = logging.getLogger(__name__)

HOW_TO_LOAD = """\
```bash
mt translate DIRECTORY "A sentence."
```

DIRECTORY is the folder with this file. Each command of mt that reads a run reads it. To train it
further with other text, name it in the config of a new run: `train.init_from`.
"""


def export(
    run_dir: Path, directory: Path, *, checkpoint: str = "best", license_name: str | None = None
) -> None:
    """Write a bundle to `directory`. It may replace an empty directory or an earlier export."""
    require_replaceable(directory)
    run = ExportedRun.load(run_dir, checkpoint=checkpoint)
    with export_directory(directory) as partial:
        bundle = RunDir(partial)
        bundle.config_path.write_text(dump_portable_config(run.config), encoding="utf-8")
        for tokenizer in run.tokenizer_paths:
            shutil.copy(tokenizer, partial)
        if run.run_dir.source_stats_path.is_file():
            shutil.copy(run.run_dir.source_stats_path, bundle.source_stats_path)
        _write_scores(run, bundle)
        _write_weights(run, bundle)
        options = CardOptions(how_to_load=HOW_TO_LOAD, differences=(), license=license_name)
        write_model_card(partial, run, options)
    logger.info(f"{directory}: a bundle, for mt translate")


def _write_scores(run: ExportedRun, bundle: RunDir) -> None:
    """Write the scores of the weights as the log of the bundle, without sentences and times."""
    line = run.scores_line
    if line is not None:
        scores = {key: value for key, value in line.items() if key not in ("samples", "timing")}
        text = json.dumps({**scores, "timing": {}}, ensure_ascii=False)
        bundle.metrics_path.write_text(f"{text}\n", encoding="utf-8")


def _write_weights(run: ExportedRun, bundle: RunDir) -> None:
    weights = run.translator.model.state_dict()
    meta: dict[str, Any] = {"state": {"step": run.step}}
    if "average_of" in run.meta:
        meta["average_of"] = run.meta["average_of"]
    write_weights(weights, bundle.checkpoints_dir, step=run.step, meta=meta)
