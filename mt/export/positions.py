"""The number of positions of an exported model; our own model computes any position."""

from mt.config.schema import Config
from mt.decoding.segment_search import max_target_length

# Unless its caller sets other limits, CTranslate2 cuts sources after 1,024 tokens and translations
# after 256. The table of positions is at least long enough for that.
MIN_POSITIONS = 2048


def max_translation_length(config: Config) -> int:
    """Return the most tokens that our search writes for the longest source, eos included."""
    return max_target_length(config.search, config.data.max_length)


def num_positions(config: Config) -> int:
    """Return the length of a table of positions: it covers the longest source and translation."""
    return max(config.data.max_length, max_translation_length(config), MIN_POSITIONS)
