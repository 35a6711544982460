"""Try bad input on the commands of `mt`, 1,000 cases of each kind.

    python -m scripts.stress.fuzz
    python -m scripts.stress.fuzz --kind config --start 17 --count 1    # one of the cases again

A command with bad input must end in success or in one clear line of error, and must not execute
anything that it read. Each case runs the real command in a process of its own, forked from one that
has already imported PyTorch, in a directory of its own, with limits on time and memory. A case
fails by a traceback, by any number of error lines other than one, by hanging, by being killed, by
asking for absurd amounts of memory, by leaving half a file behind, or by executing what it read.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from scripts.stress.fuzz.bad_input import Case, GoodInput
from scripts.stress.fuzz.bad_models import checkpoint_case, tokenizer_case
from scripts.stress.fuzz.bad_runs import (
    align_case,
    attention_case,
    export_case,
    report_case,
    score_case,
)
from scripts.stress.fuzz.bad_text import config_case, corpus_case, translate_case
from scripts.stress.fuzz.outcome import FAILURE, Outcome, fraction_past_parser
from scripts.stress.fuzz.runner import make_good_input, run_all

CASE_MAKERS: dict[str, Callable[[Random, GoodInput], Case]] = {
    "config": config_case,
    "corpus": corpus_case,
    "tokenizer": tokenizer_case,
    "checkpoint": checkpoint_case,
    "translate": translate_case,
    "report": report_case,
    "attention": attention_case,
    "align": align_case,
    "score": score_case,
    "export": export_case,
}
MIN_FRACTION_PAST_PARSER = 1 / 3  # with fewer, the cases would mostly test the parsers


def make_cases(kind: str, good: GoodInput, *, seed: int, start: int, count: int) -> Iterator[Case]:
    """Yield `count` cases from number `start`.

    Each depends only on its kind, the seed and its number.
    """
    for number in range(start, start + count):
        yield CASE_MAKERS[kind](Random(f"{kind} {seed} {number}"), good)


def print_table(kind: str, outcomes: list[Outcome]) -> None:
    """Print which part of mt answered how often, and the highest cost of a case."""
    counts = Counter(outcome.layer for outcome in outcomes)
    seconds = max(outcome.ended.cpu_seconds for outcome in outcomes)
    megabytes = max(outcome.ended.memory for outcome in outcomes) / 1e6
    print(
        f"{kind}: {len(outcomes):,} bad inputs, "
        f"{fraction_past_parser(outcomes):.0%} past the parser, {counts[FAILURE]} failures"
    )
    print(f"    at most {seconds:.1f} s of CPU, and {megabytes:.0f} MB of RAM beyond the parent's")
    for layer, count in counts.most_common():
        print(f"    {count:5,}  {layer}", flush=True)


def try_kind(kind: str, good: GoodInput, options: argparse.Namespace) -> bool:
    """Run the cases of one kind and print what happened; return whether all is well."""
    cases = make_cases(kind, good, seed=options.seed, start=options.start, count=options.count)
    outcomes: list[Outcome] = []
    for case, outcome in run_all(cases, jobs=options.jobs):
        number = options.start + len(outcomes)
        outcomes.append(outcome)
        if options.verbose or outcome.failure:
            same_case = f"--kind {kind} --seed {options.seed} --start {number} --count 1"
            answer = outcome.failure or outcome.line
            print(f"{same_case} | {case.description} | {outcome.layer} | {answer}", flush=True)
    print_table(kind, outcomes)
    has_failures = any(outcome.failure for outcome in outcomes)
    reads_enough = fraction_past_parser(outcomes) >= MIN_FRACTION_PAST_PARSER or options.count == 1
    return not has_failures and reads_enough


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kind", choices=CASE_MAKERS, action="append", help="can be repeated  [default: all]"
    )
    parser.add_argument("--count", type=int, default=1000, help="cases of each kind")
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--verbose", action="store_true", help="print the answer of each case")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="mt-fuzz-good-") as directory:
        good = make_good_input(Path(directory))
    print(f"seed {options.seed}", flush=True)
    results = [try_kind(kind, good, options) for kind in options.kind or CASE_MAKERS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
