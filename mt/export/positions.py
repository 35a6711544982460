"""The number of positions of an exported model; our own model computes any position."""

import math

from mt.config.schema import Config

# Unless its caller sets other limits, CTranslate2 cuts sources after 1,024 tokens and translations
# after 256. The table of positions is at least long enough for that.
MIN_POSITIONS = 2048


def max_translation_length(config: Config) -> int:
    """Return the most tokens that our search writes for the longest source, eos included."""
    search = config.search
    return math.ceil(search.max_length_factor * config.data.max_length) + search.max_length_offset


def num_positions(config: Config) -> int:
    """Return the length of a table of positions: it covers the longest translation."""
    return max(max_translation_length(config), MIN_POSITIONS)
