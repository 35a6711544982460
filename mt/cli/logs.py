"""Logging for the command line: messages of the library go to stderr."""

import logging
import sys

from tqdm import tqdm


class StderrHandler(logging.Handler):
    """Handler that writes to the current `sys.stderr`, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
            if sys.stderr is not None:
                tqdm.write(message, file=sys.stderr)
                sys.stderr.flush()
        except Exception:
            self.handleError(record)


class MessageFormatter(logging.Formatter):
    """Formatter that puts the level in front of a warning or an error, and nothing else."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        if record.levelno >= logging.WARNING:
            return f"{record.levelname.lower()}: {message}"
        return message


def configure_logging(level: int = logging.INFO) -> None:
    """Send messages of mt of at least `level` to stderr. A second call replaces the first."""
    handler = StderrHandler()
    handler.setFormatter(MessageFormatter("%(message)s"))
    logger = logging.getLogger("mt")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
