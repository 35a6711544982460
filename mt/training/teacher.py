"""The teachers of a distillation: `train.teacher`."""

from pathlib import Path

from mt.config.schema import TrainConfig
from mt.data.tags import language_ids
from mt.distributed import Runtime
from mt.errors import ConfigError
from mt.experiment import Experiment
from mt.model.transformer import Transformer
from mt.storage.atomic import sha256
from mt.storage.checkpoint import find_checkpoint
from mt.storage.run_dir import open_run_dir


def require_teachers(config: TrainConfig) -> None:
    """Raise RunDirError or CheckpointError for a teacher that does not exist."""
    for path in config.teacher:
        run_dir = open_run_dir(Path(path), key="train.teacher")
        find_checkpoint(run_dir.checkpoints_dir, config.teacher_checkpoint)


def load_teachers(experiment: Experiment, runtime: Runtime) -> list[Transformer]:
    """Return the teachers of a run, in evaluation mode and without gradients.

    Their moving averages are loaded if they have any. Raises ConfigError when a teacher has another
    tokenizer or other tags, CheckpointError when there is no such checkpoint.
    """
    config = experiment.config.train
    teachers = []
    for run_dir in config.teacher:
        teacher = Experiment.open(run_dir)
        require_same_tokenizers(experiment, teacher)
        require_same_tags(experiment, teacher)
        model = teacher.translator(config.teacher_checkpoint, device="cpu").model
        model.compute_dtype = runtime.dtype
        teachers.append(model.requires_grad_(False).to(runtime.device))
    return teachers


def require_same_tokenizers(experiment: Experiment, teacher: Experiment) -> None:
    """Raise ConfigError when the ids of the teacher stand for other tokens."""
    own_paths = experiment.run_dir.tokenizer_paths(experiment.config.tokenizer.joint)
    paths = teacher.run_dir.tokenizer_paths(teacher.config.tokenizer.joint)
    if [sha256(path) for path in own_paths] == [sha256(path) for path in paths]:
        return
    src_path, tgt_path = paths
    if teacher.config.tokenizer.joint:
        wanted = f"tokenizer.model: {src_path}"
    else:
        wanted = (
            f"tokenizer.joint: false, tokenizer.src_model: {src_path} and "
            f"tokenizer.tgt_model: {tgt_path}"
        )
    raise ConfigError(
        f"train.teacher: {teacher.run_dir.path} has another tokenizer than this run: wanted "
        f"{wanted}, in a new run"
    )


def require_same_tags(experiment: Experiment, teacher: Experiment) -> None:
    """Raise ConfigError when the tags of this run mean something else to the teacher.

    Both must have the same target languages. The teacher may have more tags of corpora.
    """
    own = experiment.ids_by_tag
    others = teacher.ids_by_tag
    has_own_tags = own.items() <= others.items()
    if not has_own_tags or language_ids(own) != language_ids(others):
        raise ConfigError(
            f"train.teacher: {teacher.run_dir.path}: wanted the tags of this run, in their order "
            f"({', '.join(own) or 'none'}), found {', '.join(others) or 'none'}"
        )
