"""Errors that the user can fix.

MtError
├── ConfigError
├── DataError
├── TokenizerError
├── RunDirError
├── CheckpointError
├── TrainingError
├── DiskError
├── DeviceError
├── PackageError
├── ProcessError
└── RankError

The message is one complete line: the place, the value found, and the value expected. Only the
command line catches these errors. A bug in mt itself is an `assert`.
"""


class MtError(Exception):
    """Base class. The message is for the user, who does not need the traceback."""


class ConfigError(MtError):
    """A config file, or an override of it, has a wrong key or value."""


class DataError(MtError):
    """A text file is missing, damaged, or does not match its other side."""


class TokenizerError(MtError):
    """A tokenizer cannot be trained or read."""


class RunDirError(MtError):
    """A directory is not a run, or not the run that was expected."""


class CheckpointError(MtError):
    """A checkpoint is missing or damaged."""


class TrainingError(MtError):
    """Training diverged: gradients, weights or what the model computes are not finite."""


class DiskError(MtError):
    """A file cannot be written: the disk is full, permission is missing, or the name is refused.

    Most are raised by `mt.storage.atomic.os_errors_as_disk_error`.
    """


class DeviceError(MtError):
    """The machine lacks the device, the number format or the memory that is needed."""


class PackageError(MtError):
    """An optional package is not installed, or cannot be imported."""


class ProcessError(MtError):
    """A process that encodes text was killed. What is recorded of its work is kept."""


class RankError(MtError):
    """Another process of the same training has ended, for a reason that it reports itself."""
