"""How fast a run is: the measured time of an update and of a validation."""

import math
from dataclasses import dataclass

from pydantic import FiniteFloat

# A process can be stopped for a while, for example by Ctrl-Z. So an update counts at most as this
# many times the mean, and a validation as this many times the one before. If they stay slow, the
# measured times follow.
MAX_UPDATE_SLOWDOWN = 10.0
MAX_VALIDATION_SLOWDOWN = 2.0


@dataclass
class Pace:
    """Measured times of a run; a checkpoint keeps them.

    The time of an update is a mean in which older updates count less. The first update of a process
    is not measured, because memory is allocated in it.
    """

    seconds: FiniteFloat = 0.0  # of the measured updates; older ones count less
    num_updates: FiniteFloat = 0.0  # measured updates; older ones count less
    validation_seconds: FiniteFloat | None = None  # of the latest validation
    planned_at: FiniteFloat = 0.0  # elapsed seconds of the run when its plan was last examined
    # Elapsed seconds of the run at the end of the latest update or validation; None: not yet known.
    measured_until: FiniteFloat | None = None

    @property
    def update_seconds(self) -> float | None:
        """Seconds per update; None before the first measurement."""
        return self.seconds / self.num_updates if self.num_updates > 0.0 else None

    def count_update(self, elapsed_seconds: float, *, memory_seconds: float) -> None:
        """Count an update that has ended now.

        An update that ended `memory_seconds` ago counts 1/e of one that ended now.
        """
        if self.measured_until is not None:
            seconds = max(0.0, elapsed_seconds - self.measured_until)
            if self.update_seconds:
                seconds = min(seconds, MAX_UPDATE_SLOWDOWN * self.update_seconds)
            weight = math.exp(-seconds / memory_seconds)
            self.seconds = weight * self.seconds + seconds
            self.num_updates = weight * self.num_updates + 1.0
        self.measured_until = elapsed_seconds

    def count_validation(self, seconds: float, *, elapsed_seconds: float) -> None:
        """Count a validation of so many seconds that has ended now."""
        if self.validation_seconds:
            seconds = min(seconds, MAX_VALIDATION_SLOWDOWN * self.validation_seconds)
        self.validation_seconds = seconds
        if self.measured_until is not None:
            self.measured_until = elapsed_seconds

    def restart(self) -> None:
        """Leave out the first update of a new process."""
        self.measured_until = None
