"""mt export --to bundle: a small run directory for other people who have mt.

A bundle has one checkpoint. It lacks what only the author needs: the optimizer, the log, the cache
and the paths of files. Each command that reads a run reads a bundle in the same way.
"""

import json
import logging
from pathlib import Path
from typing import Any

from mt.export.directory import export_directory, require_replaceable
from mt.export.model_card import CardOptions, write_model_card
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
        run.write_text_settings(partial)
        _write_scores(run, bundle)
        _write_weights(run, bundle)
        options = CardOptions(how_to_load=HOW_TO_LOAD, differences=(), license=license_name)
        write_model_card(partial, run, options)
    logger.info(f"{directory}: a bundle, for mt translate")


def _write_scores(run: ExportedRun, bundle: RunDir) -> None:
    """Write the scores of the weights as the log of the bundle, without sample texts and times."""
    line = run.scores_line
    if line is not None:
        scores = {key: value for key, value in line.items() if key not in ("samples", "timing")}
        text = json.dumps({**scores, "timing": {}}, ensure_ascii=False)
        bundle.metrics_path.write_text(f"{text}\n", encoding="utf-8")


def _write_weights(run: ExportedRun, bundle: RunDir) -> None:
    """Write the weights as the only checkpoint of the bundle."""
    weights = run.translator.model.state_dict()
    meta: dict[str, Any] = {"state": {"step": run.step}}
    if "average_of" in run.meta:
        meta["average_of"] = run.meta["average_of"]
    write_weights(weights, bundle.checkpoints_dir, step=run.step, meta=meta)
