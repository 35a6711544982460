"""The process that the command `mt` runs in: its settings, its start and its end."""

import atexit
import os
import sys

SETTINGS = {  # of the environment: read before the first line of Python, or when PyTorch is loaded
    # PyTorch's threads should spin very shortly for the next piece of work, then sleep: to spin long costs most of the
    # speed beside another busy process, to sleep at once a fifth of it when alone (see RECORDS.md).
    "GOMP_SPINCOUNT": "1000",
    # oneDNN, and PyTorch's bridge to it, keep the kernels of the last 1,024 shapes, a quarter of a GB, and batches have
    # ever new ones. These are enough for those that one batch uses several times: as fast.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
    # glibc's malloc keeps small freed blocks for each thread to use again. They lie between the tensors, keep the gaps
    # beside them from becoming one, and so a process grows for as long as it trains (see docs/LOG.md).
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}


def run() -> None:
    """`mt.cli.main` in a process of its own, which has our settings, where the user has none, and ends at once.

    Taking PyTorch down piece by piece lasts half a second, and a process was seen to crash at it, its work done.
    """
    if not SETTINGS.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], SETTINGS | os.environ)
    from mt import cli

    code: object = None

    def vanish() -> None:
        if isinstance(code, int):
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
            os._exit(code)

    atexit.register(vanish)  # first come, last served: what others want done at the end is done before
    try:
        cli.main()
    except SystemExit as leaving:
        code = leaving.code or 0
        raise
