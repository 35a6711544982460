"""The keys of a config that may change when a run is resumed."""

from mt.config.load import diff_configs
from mt.config.schema import SCHEDULES_WITH_AN_END, Config

# Keys, or whole sections, that may change when a run is resumed: they do not change what an update
# computes, except for rounding.
CHANGEABLE_KEYS = (
    "data.test",
    "search.batch_tokens",
    "train.run_dir",
    "train.device",
    "train.compile",
    "train.max_epochs",
    "train.max_minutes",
    "train.patience",
    "train.keep_checkpoints",
    "train.num_samples",
    "train.max_skipped",
)


def forbidden_changes(run_config: Config, config: Config) -> list[str]:
    """Return the differences that a resumed run may not have, one line for each key."""
    changeable: tuple[str, ...] = CHANGEABLE_KEYS
    if config.train.schedule not in SCHEDULES_WITH_AN_END:
        changeable = (*changeable, "train.max_steps")
    lines = []
    for line in diff_configs(run_config, config):
        key, _, _ = line.partition(": ")
        if not any(key == name or key.startswith(f"{name}.") for name in changeable):
            lines.append(line)
    return lines
