"""What may change when a run is resumed: some keys of its config, and where its files are."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mt.config.load import diff_configs
from mt.config.schema import Config
from mt.errors import CheckpointError, RunDirError
from mt.experiment import Experiment
from mt.storage.atomic import sha256

# What a user can do when a run cannot be resumed as asked.
OTHER_RUN_HINT = "choose another --run-dir, or give --fresh, which moves this run aside"

# Keys, or whole sections, that may change when a run is resumed: they do not change what an update
# computes, except for rounding. The limits of a run change its learning rate, and a revision of its
# plan records that.
CHANGEABLE_KEYS = (
    "data.test",
    "search.batch_tokens",
    "train.run_dir",
    "train.device",
    "train.compile",
    "train.max_steps",
    "train.max_epochs",
    "train.max_minutes",
    "train.patience",
    "train.keep_checkpoints",
    "train.num_samples",
    "train.tensorboard",
    "train.max_skipped",
)

# Keys with paths of files. They may change: mt compares the content of the files, or does not need
# them any more.
PATH_KEYS = re.compile(
    r"data\.train\.\d+\.(prefix|src|tgt|tsv|columns(\.\d+)?|tmx)"
    r"|data\.valid\.\d+\.(prefix|src|refs\.\d+|tsv|columns(\.\d+)?|tmx)"
    r"|tokenizer\.(model|src_model|tgt_model)"
    r"|train\.(init_from|init_checkpoint)"  # read only when the run begins
    r"|train\.teacher(_checkpoint|\.\d+)?"
)


def forbidden_changes(run_config: Config, config: Config) -> list[str]:
    """Return the differences that a resumed run may not have, one line for each key."""
    return [
        str(difference)
        for difference in diff_configs(run_config, config)
        if not _may_change(difference.key)
    ]


def _may_change(key: str) -> bool:
    """Return whether a key may have another value when a run is resumed."""
    is_changeable = any(key == name or key.startswith(f"{name}.") for name in CHANGEABLE_KEYS)
    return is_changeable or PATH_KEYS.fullmatch(key) is not None


def check_same_text(meta: Mapping[str, Any], experiment: Experiment) -> None:
    """Raise CheckpointError when the training or validation text has changed.

    `meta` is the meta.json of a checkpoint of the run.
    """
    path = experiment.run_dir.path
    if meta.get("data_digest") != experiment.training_data.digest:
        raise CheckpointError(
            f"{path}: the training text has changed since the run began; {OTHER_RUN_HINT}"
        )
    # Earlier versions of mt did not save it.
    valid_digest = experiment.validation_digest
    if meta.get("valid_digest", valid_digest) != valid_digest:
        raise CheckpointError(
            f"{path}: the validation text has changed since the run began, so scores cannot be "
            f"compared; {OTHER_RUN_HINT}"
        )


def check_same_teachers(meta: Mapping[str, Any], digests: Sequence[str], path: Path) -> None:
    """Raise CheckpointError when the teachers are not those that the run began with.

    `meta` is the meta.json of a checkpoint in the directory `path`, `digests` are of the present
    teachers.
    """
    if meta.get("teacher_digests", []) != list(digests):  # older versions of mt had no teachers
        raise CheckpointError(
            f"{path}: the run began with other teachers than train.teacher names now, or their "
            f"weights have changed; {OTHER_RUN_HINT}"
        )


def check_same_tokenizers(experiment: Experiment) -> None:
    """Raise RunDirError when the config names other tokenizers than those of the run.

    A file that is not there any more is no error: the run uses its copy.
    """
    section = experiment.config.tokenizer
    src_path, tgt_path = experiment.run_dir.tokenizer_paths(section.joint)
    own_paths = {"model": src_path, "src_model": src_path, "tgt_model": tgt_path}
    for key, own_path in own_paths.items():
        named = getattr(section, key)
        if named is None or not Path(named).is_file():
            continue
        if sha256(Path(named)) != sha256(own_path):
            raise RunDirError(
                f"{experiment.run_dir.path}: the run began with another tokenizer than {named} "
                f"(tokenizer.{key}); {OTHER_RUN_HINT}"
            )
