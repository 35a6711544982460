"""Encoding on all processors: this process reads the text, others encode it, chunk by chunk.

SentencePiece holds Python's global lock while it encodes, so threads would take turns. The other
processes are not copies of this one (`fork`), because PyTorch may have threads here. They are not
started with `spawn` either, because that imports the user's program again, which may have no
`if __name__ == "__main__"`. Each is a new Python that runs `main` below. On its standard input it
gets the encoder and then chunks, pickled, and it writes the encoded chunks to its standard output.
"""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import mt
from mt.data.chunk_encoder import ChunkEncoder, EncodedChunk, TextChunk
from mt.errors import ProcessError

# A process takes about 120 MB. One reading process can feed about this many.
MAX_PROCESSES = 8

# Bytes of text on the disk. Starting processes for less text takes longer than it saves.
MIN_TEXT_SIZE = 30_000_000


def choose_num_processes(text_size: int) -> int:
    """Return how many processes should encode a text of so many bytes; 0: this one encodes."""
    if hasattr(os, "sched_getaffinity"):
        num_processors = len(os.sched_getaffinity(0))
    else:
        num_processors = os.cpu_count() or 1
    # If Python is embedded in another program, sys.executable is empty and no new Python can be
    # started.
    if text_size < MIN_TEXT_SIZE or num_processors == 1 or not sys.executable:
        return 0
    return min(num_processors, MAX_PROCESSES)


def encode_in_processes(
    chunks: Iterable[TextChunk], encoder: ChunkEncoder, *, num_processes: int
) -> Iterator[EncodedChunk]:
    """Yield each chunk encoded, in order. Raises ProcessError when a process is killed."""
    free: SimpleQueue[EncodingProcess] = SimpleQueue()

    def encode(chunk: TextChunk) -> EncodedChunk:
        process = free.get()
        try:
            return process.encode(chunk)
        finally:
            free.put(process)

    with ExitStack() as stack:
        # The `with` block ends the processes before the executor, so that no thread of the executor
        # waits for one of them.
        executor = stack.enter_context(ThreadPoolExecutor(num_processes))
        for _ in range(num_processes):
            free.put(stack.enter_context(EncodingProcess(encoder)))
        pending: deque[Future[EncodedChunk]] = deque()
        for chunk in chunks:
            if len(pending) == 2 * num_processes:
                yield pending.popleft().result()
            pending.append(executor.submit(encode, chunk))
        while pending:
            yield pending.popleft().result()


class EncodingProcess:
    """Another process with the encoder. It ends with this object's block, and with this process."""

    def __init__(self, encoder: ChunkEncoder) -> None:
        root = str(Path(mt.__file__).parents[1])
        search_path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            # -P: do not import modules from the current directory
            [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": search_path},
            start_new_session=True,  # Ctrl-C is for this process alone
        )
        try:
            self._send(encoder)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # the buffer cannot be flushed: its reader has ended
                pipe.close()

    def encode(self, chunk: TextChunk) -> EncodedChunk:
        """Return the chunk encoded. Raises ProcessError when the process has ended."""
        assert self._process.stdout is not None
        self._send(chunk)
        try:
            encoded = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError) as error:
            raise self._ended_error() from error
        assert isinstance(encoded, EncodedChunk), type(encoded)
        return encoded

    def _send(self, message: ChunkEncoder | TextChunk) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended_error() from error

    def _ended_error(self) -> ProcessError:
        code = self._process.wait()
        return ProcessError(
            f"a process that encodes text ended with code {code}; is the memory full?"
        )


def main() -> None:
    """Encode the chunks from standard input until it is closed."""
    messages = sys.stdin.buffer
    results = sys.stdout.buffer
    try:
        encoder = pickle.load(messages)
        while True:
            chunk = pickle.load(messages)
            pickle.dump(encoder.encode(chunk), results, pickle.HIGHEST_PROTOCOL)
            results.flush()
    # The other process has ended, maybe in the middle of a message.
    except (EOFError, pickle.UnpicklingError, BrokenPipeError):
        os._exit(0)
