"""Compare the speed of `mt` with that of another program that does the same work.

    python -m scripts.benchmarks.benchmark train [--config FILE] [--set KEY=VALUE]
        [--warm-up 300] [--updates 300] [--block 10] [--threads N]
    python -m scripts.benchmarks.benchmark train --nll-after 300 600 1000
        [--config FILE] [--set KEY=VALUE] [--threads 1]
    python -m scripts.benchmarks.benchmark translate RUN_DIR --src FILE --ref FILE
        [--threads 2] [--limit N] [--repeats 5]

`train --help` and `translate --help` say what is compared and printed; the code is in
train_speed.py and translate_speed.py.
"""

from __future__ import annotations

import argparse

from scripts.benchmarks import train_speed, translate_speed

COMMANDS = {"train": train_speed, "translate": translate_speed}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(required=True, metavar="train | translate")
    for name, module in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, description=module.__doc__, formatter_class=parser.formatter_class
        )
        module.add_options(subparser)
        subparser.set_defaults(main=module.main)
    options = parser.parse_args()
    options.main(options)


if __name__ == "__main__":
    main()
