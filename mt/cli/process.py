"""The process that the command `mt` runs in: its settings, its start and its end."""

import atexit
import os
import sys
from contextlib import suppress

SETTINGS = {  # of the environment, where the user has none of his own
    # PyTorch's threads should spin shortly for the next piece of work, then sleep: to spin long costs most of the
    # speed beside another busy process, to sleep at once a fifth of it when alone (see RECORDS.md).
    "GOMP_SPINCOUNT": "2000",
    # oneDNN, and PyTorch's bridge to it, keep the kernels of the last 1,024 shapes, a quarter of a GB, and batches have
    # ever new ones. These are enough for those that one batch uses several times: as fast.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
    # glibc's malloc keeps small freed blocks for each thread to use again. They lie between the tensors, keep the gaps
    # beside them from becoming one, and so a process grows for as long as it trains (see docs/LOG.md). What may be set
    # later, and so for a program of one's own as well, is in mt/runtime.py.
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}


def run() -> None:
    """`mt.cli.app.main` in a process that has our settings and ends at once.

    glibc reads its own before Python begins, so the program starts anew, once: all that stands before this call is done
    twice. Where GLIBC_TUNABLES is set, as one may for a debugger, it goes on as it is. As for the end: to take PyTorch
    down piece by piece lasts half a second, and a process was seen to crash at it, its work done.
    """
    lacking = {name: SETTINGS[name] for name in SETTINGS.keys() - os.environ.keys()}
    os.environ.update(lacking)
    if sys.platform == "linux" and "GLIBC_TUNABLES" in lacking and "mt" not in sys._xoptions:
        with suppress(OSError, ValueError):  # the other settings hold without it
            os.execv(sys.executable, [sys.executable, "-X", "mt", *sys.orig_argv[1:]])
    from mt.cli import app as cli

    code: object = None

    def vanish() -> None:
        if isinstance(code, int):
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
            os._exit(code)

    atexit.register(
        vanish
    )  # first come, last served: what others want done at the end is done before
    try:
        cli.main()
    except SystemExit as leaving:
        code = leaving.code or 0
        raise
