"""The errors that are a user's to fix.

MtError
├── ConfigError        a config file, or a --set, says what it may not
├── DataError          a text file is missing, broken, or does not fit its partner
├── TokenizerError     a tokenizer cannot be trained or read
├── RunDirError        a directory is not a run, or not this run
├── CheckpointError    a checkpoint is missing or damaged
├── TrainingError      training cannot go on: the numbers have run away
├── DiskError          something cannot be written
└── DeviceError        the machine lacks what was asked of it

The message is one complete line: what is wrong and where, what was found, what was wanted. Only `cli.py` catches
these. A mistake of our own is an `assert`.
"""


class MtError(Exception):
    """The parent of all: its text is meant for the user, its traceback is not."""


class ConfigError(MtError):
    """A config file, or an override of it, says what it may not."""


class DataError(MtError):
    """A text file is missing, broken, or does not fit its partner."""


class TokenizerError(MtError):
    """A tokenizer cannot be trained or read."""


class RunDirError(MtError):
    """A directory is not a run, or not the run that was asked for."""


class CheckpointError(MtError):
    """A checkpoint is missing or damaged."""


class TrainingError(MtError):
    """Training cannot go on: the numbers have run away."""


class DiskError(MtError):
    """Something cannot be written: no room, or no right to."""


class DeviceError(MtError):
    """The machine lacks the device or the number format that was asked for."""
