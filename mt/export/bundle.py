"""mt export --to bundle: what one sends to a colleague who has mt.

A bundle is a run directory with one checkpoint and without what only the author needs: the
optimizer, the log, the cache and the places of files. So each command that reads a run reads a
bundle, and no second format has to be loaded.
"""

import logging
import shutil
from pathlib import Path

from mt.export.directory import export_directory, require_replaceable
from mt.export.model_card import CardOptions, write_model_card
from mt.export.portable_config import dump_portable_config
from mt.export.run import ExportedRun
from mt.storage.checkpoint import load_meta, write_weights
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
        step = int(load_meta(run.checkpoint).get("state", {}).get("step", 0))
        write_weights(run.translator.model.state_dict(), bundle.checkpoints_dir, step=step)
        options = CardOptions(how_to_load=HOW_TO_LOAD, differences=(), license=license_name)
        write_model_card(partial, run, options)
    logger.info(f"{directory}: a bundle, for mt translate")
