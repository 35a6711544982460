"""Start and end of the process that runs the command `mt`."""

import atexit
import os
import sys
from contextlib import suppress

# Environment variables that `run` sets where the user has not set them.
SETTINGS = {
    # PyTorch's threads should spin for a short time for the next piece of work, then sleep. Long
    # spinning costs most of the speed beside another busy process; sleeping at once costs a fifth
    # of it when alone (see docs/log.md).
    "GOMP_SPINCOUNT": "2000",
    # oneDNN, and PyTorch's bridge to it, keep the kernels of the last 1,024 shapes, which take a
    # quarter of a GB, because most batches have a new shape. With 64 kernels the speed is the same:
    # they are enough for the shapes that one batch uses several times.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
    # glibc's malloc keeps small freed blocks for each thread to use again. They lie between the
    # tensors and keep the gaps beside them from joining, so that a process grows for as long as it
    # trains (see docs/log.md). The settings of malloc that can be changed later, and so in the
    # programs of others too, are in mt/device.py.
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}


def run() -> None:
    """Run `mt.cli.app.main` with our settings, and end the process without cleaning up PyTorch.

    glibc reads its settings before Python starts, so the program is started a second time. When the
    user has set GLIBC_TUNABLES, for example for a debugger, it is not started again.
    """
    missing = {name: value for name, value in SETTINGS.items() if name not in os.environ}
    os.environ.update(missing)
    if "GLIBC_TUNABLES" in missing:
        _restart_on_linux()

    from mt.cli import app

    # Cleaning up PyTorch takes half a second, and a process was seen to crash in it after its work
    # was done. So the process ends at once, after all other exit handlers: the one that is
    # registered first runs last.
    exit_code: object = None

    def exit_at_once() -> None:
        if not isinstance(exit_code, int):
            return
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(exit_code)

    atexit.register(exit_at_once)
    try:
        app.main()
    except SystemExit as error:
        exit_code = error.code or 0
        raise


def _restart_on_linux() -> None:
    """Replace this process by the same command with the new environment, once.

    The interpreter option `-X mt` marks the second start. When the command cannot be started again,
    this one continues: the other settings apply without a new start.
    """
    if sys.platform != "linux" or "mt" in sys._xoptions:
        return
    with suppress(OSError, ValueError):
        os.execv(sys.executable, [sys.executable, "-X", "mt", *sys.orig_argv[1:]])
