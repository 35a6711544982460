#!/usr/bin/env python3
"""How fast is `mt`? Measured in turn with another program, which does the same work on the same machine.

    .venv/bin/python -m scripts.benchmarks.benchmark train [--config FILE] [--set KEY=VALUE] [--warm-up 300] [--updates 300]
        [--block 10] [--threads N]
    .venv/bin/python -m scripts.benchmarks.benchmark train --course 300 600 1000 [--config FILE] [--set KEY=VALUE] [--threads 1]
    .venv/bin/python -m scripts.benchmarks.benchmark translate RUN_DIR --src FILE --ref FILE [--threads 2] [--limit N]
        [--repeats 5]

What each half compares and prints is in `train_speed.py` and `translate_speed.py`, or after `--help`.
"""

import argparse

from scripts.benchmarks import train_speed, translate_speed

HALVES = {"train": train_speed, "translate": translate_speed}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    halves = parser.add_subparsers(required=True, metavar="train | translate")
    for name, half in HALVES.items():
        command = halves.add_parser(
            name, description=half.__doc__, formatter_class=parser.formatter_class
        )
        half.add_options(command)
        command.set_defaults(main=half.main)
    options = parser.parse_args()
    options.main(options)


if __name__ == "__main__":
    main()
