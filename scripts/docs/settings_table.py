"""Print the table of settings that `mt init` uses, or write it into docs/recipes.md.

python -m scripts.docs.settings_table [--write]
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

from mt.project.settings import BASE, BIG, MEDIUM, SMALL, TABLE, TINY, Row
from scripts.docs.page import replace_between

PAGE = Path("docs/recipes.md")  # relative to the top of the project, where the command is run
NAME = "settings"
SIZES = (TINY, SMALL, MEDIUM, BASE, BIG)


def table() -> Iterator[str]:
    """Yield the lines of two Markdown tables: the rows of the rule, and the sizes that it names."""
    yield "| pairs | passes | model | `vocab_size` | `dropout` | `bpe_dropout` | |"
    yield "|---|---|---|---|---|---|---|"
    for row in TABLE:
        yield (
            f"| {describe_pairs(row)} | {describe_passes(row)} | {row.size.name} "
            f"| {row.vocab_size:,} | {row.dropout:g} | {row.bpe_dropout:g} "
            f"| {'measured' if row.measured else 'not measured'} |"
        )
    yield ""
    yield (
        "| model | `d_model` | `d_ff` | `num_heads` | layers | `batch_tokens` | `learning_rate` "
        "| `warmup_steps` at most |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for size in SIZES:
        yield (
            f"| {size.name} | {size.d_model:,} | {size.d_ff:,} | {size.num_heads} "
            f"| {size.num_layers} + {size.num_layers} | {size.batch_tokens:,} "
            f"| {size.learning_rate:g} | {size.warmup_steps:,} |"
        )


def describe_pairs(row: Row) -> str:
    """Return the largest number of pairs of a row."""
    return "more" if math.isinf(row.max_pairs) else f"up to {row.max_pairs:,.0f}"


def describe_passes(row: Row) -> str:
    """Return the least number of passes of a row."""
    return "any" if row.min_epochs == 0 else f"from {row.min_epochs:,.0f}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        replace_between(PAGE, NAME, table())
    else:
        print("\n".join(table()))
