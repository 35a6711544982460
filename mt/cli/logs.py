"""Logging for the command line: messages of the library go to stderr."""

import logging
import re
import sys

from tqdm import tqdm

CONTROL_CHARS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")  # without the newline


class StderrHandler(logging.Handler):
    """Writes each message to the current `sys.stderr`, above a progress bar if there is one.

    A message that cannot be written is lost, without an error: a full disk or a closed terminal
    must not end the work of a command.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
            if sys.stderr is not None:
                tqdm.write(message, file=sys.stderr)
                sys.stderr.flush()
        except OSError:
            pass
        except Exception:
            self.handleError(record)


class MessageFormatter(logging.Formatter):
    """Shows a message without control characters, and a warning or error with its level in front.

    Messages hold text and file names of others, such as the samples of a validation.
    """

    def format(self, record: logging.LogRecord) -> str:
        message = escape_control_chars(super().format(record))
        if record.levelno >= logging.WARNING:
            return f"{record.levelname.lower()}: {message}"
        return message


def escape_control_chars(text: str) -> str:
    """Escape what could change the terminal or its clipboard, and all line ends but newlines."""
    return CONTROL_CHARS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def configure_logging(*, quiet: bool = False, verbose: bool = False) -> None:
    """Send messages of the logger `mt` to stderr, and replace an earlier handler.

    `quiet` shows warnings only; `verbose` also shows details for debugging.
    """
    level = logging.INFO
    if quiet:
        level = logging.WARNING
    elif verbose:
        level = logging.DEBUG
    handler = StderrHandler()
    handler.setFormatter(MessageFormatter("%(message)s"))
    logger = logging.getLogger("mt")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
