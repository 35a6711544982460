"""The rules of `mt clean`: why a pair is left out. This imports quickly, for the command line."""

from dataclasses import dataclass
from enum import IntEnum


class Rule(IntEnum):
    """Why a pair is left out: the first of these that applies."""

    ENCODING = 1
    CONTROL = 2
    BLANK = 3
    LENGTH = 4
    LENGTH_RATIO = 5
    SCRIPT = 6
    COPY = 7
    LANGUAGE = 8
    HELD_OUT = 9
    DUPLICATE = 10

    @property
    def label(self) -> str:
        """The name on the command line."""
        return self.name.lower().replace("_", "-")


KEPT = 0  # the verdict on a pair to which no rule applies

RULES_OF_HELD_OUT = (Rule.SCRIPT, Rule.LANGUAGE, Rule.HELD_OUT)  # these need held-out text


@dataclass(frozen=True)
class CleaningRules:
    """The rules that are used, and their limits."""

    max_length: int  # words of a side
    max_length_ratio: float  # words of the longer side to those of the shorter
    without: frozenset[Rule] = frozenset()  # rules that are not used
