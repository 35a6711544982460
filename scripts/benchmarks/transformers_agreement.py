"""Count the lines that mt and Transformers translate alike, with a trained run and its export.

    python -m scripts.benchmarks.transformers_agreement RUN_DIR --src FILE
        [--limit 1000] [--beam-sizes 1 5]

The run is exported to a temporary directory, which Transformers loads without the network. Lines
that mt would split are translated as a whole by both. Needs `pip install -e '.[transformers]'`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers

from mt import Translator
from mt.data.text import read_lines
from mt.export.transformers import export

BATCH_SIZE = 64


def translate(
    directory: Path, lines: Sequence[str], *, beam_size: int, length_penalty: float
) -> list[str]:
    """Translate all lines with Transformers, by a search with the rules of mt."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory, local_files_only=True)
    settings: dict[str, Any] = {"num_beams": beam_size}
    if beam_size > 1:
        settings |= {"early_stopping": True, "length_penalty": length_penalty}
    else:  # it would warn of settings without use
        settings |= {"early_stopping": False, "length_penalty": 1.0}
    translations = []
    for start in range(0, len(lines), BATCH_SIZE):
        batch = tokenizer(
            list(lines[start : start + BATCH_SIZE]), return_tensors="pt", padding=True
        )
        ids = model.generate(**batch, **settings)
        translations += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return translations


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument(
        "--limit", type=int, default=1000, help="lines to take from the start of the file"
    )
    parser.add_argument("--beam-sizes", type=int, nargs="+", default=[1, 5])
    options = parser.parse_args()

    lines = list(islice(read_lines(options.src), options.limit))
    translator = Translator.load(options.run_dir, device="cpu", split_lines=False)
    print(f"Transformers {transformers.__version__}, PyTorch {torch.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "exported"
        export(options.run_dir, directory)
        for beam_size in options.beam_sizes:
            expected = translator.translate(lines, beam_size=beam_size)
            found = translate(
                directory,
                lines,
                beam_size=beam_size,
                length_penalty=translator.search.length_penalty,
            )
            pairs = list(zip(lines, expected, found, strict=True))
            num_equal = sum(ours == theirs for _, ours, theirs in pairs)
            print(f"beam {beam_size}: {num_equal:,} of {len(lines):,} lines are equal", flush=True)
            for line, ours, theirs in pairs:
                if ours != theirs:
                    print(f"  {line}\n    mt           {ours}\n    Transformers {theirs}")


if __name__ == "__main__":
    main()
