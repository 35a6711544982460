"""Locks that keep other processes from writing the same files."""

import fcntl


def try_lock(descriptor: int) -> bool:
    """Lock an open file or directory until it is closed. Return False if another process has it.

    The system releases the lock when this process ends, however it ends. Where a filesystem cannot
    lock, as some network filesystems with a directory, nothing is locked.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
