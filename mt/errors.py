"""Errors that the user can fix.

MtError
├── ConfigError        a config file or a --set has a wrong key or value
├── DataError          a text file is missing, damaged, or does not match its other side
├── TokenizerError     a tokenizer cannot be trained or read
├── RunDirError        a directory is not a run, or not this run
├── CheckpointError    a checkpoint is missing or damaged
├── TrainingError      training diverged
├── DiskError          a file cannot be written
├── DeviceError        the machine lacks the device, number format or memory
├── ProcessError       a process that encodes text was killed
└── RankError          another process of the same training has ended

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
    """A file cannot be written: the disk is full, or permission is missing.

    Most are raised by `mt.storage.atomic.os_errors_as_disk_error`.
    """


class DeviceError(MtError):
    """The machine lacks the device, the number format or the memory that is needed."""


class ProcessError(MtError):
    """A process that encodes text was killed. What is recorded of its work is kept."""


class RankError(MtError):
    """Another process of the same training has ended, for a reason that it reports itself."""
