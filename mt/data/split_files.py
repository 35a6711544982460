"""Writes a split text to files: train, valid and test, each in two languages."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mt.data.parallel_text import ParallelText, complete_pairs, read_pairs
from mt.data.progress import bytes_bar
from mt.data.split import Part, Split, digest_pairs, split_pairs
from mt.data.text import encode_line
from mt.errors import DataError, DiskError
from mt.storage.atomic import atomic_directory
from mt.wording import count_of

FILE_NAMES = {Part.TRAIN: "train", Part.VALID: "valid", Part.TEST: "test"}


def split_text(
    text: ParallelText,
    *,
    num_valid: int | None,
    num_test: int | None,
    seed: int,
    held_out_text: Sequence[ParallelText] = (),
) -> Split:
    """Read a text and split its pairs (see `split_pairs`).

    Raises DataError for a text that cannot be read, and if a part that should have pairs has none.
    """
    with bytes_bar("reading", text.paths) as on_bytes:
        digests = digest_pairs(complete_pairs(text, on_bytes=on_bytes))
    split = split_pairs(
        digests,
        num_valid=num_valid,
        num_test=num_test,
        seed=seed,
        held_out_text=[digest_pairs(read_pairs(other)) for other in held_out_text],
    )
    num_wanted = {Part.TRAIN: None, Part.VALID: num_valid, Part.TEST: num_test}
    for part, number in num_wanted.items():
        if number != 0 and split.count(part) == 0:
            left_out = [
                f"blank: {split.count(Part.BLANK):,}",
                f"duplicates: {split.count(Part.DUPLICATE):,}",
            ]
            if held_out_text:
                left_out.append(f"in held-out text: {split.count(Part.LEAK):,}")
            raise DataError(
                f"{text.name}: no pair is left for {FILE_NAMES[part]}: found "
                f"{count_of(len(split.parts), 'pair')} ({', '.join(left_out)}) in "
                f"{count_of(split.num_components, 'group')} with a common source or target"
            )
    return split


def refuse_existing(path: Path) -> None:
    """Raise DiskError if a file or directory exists that would be replaced."""
    if path.exists():
        raise DiskError(f"{path}: exists, and is not replaced; choose another name or remove it")


@contextmanager
def split_directory(
    path: Path, split: Split, text: ParallelText, *, src_lang: str, tgt_lang: str
) -> Iterator[None]:
    """Write the pairs to PATH/train.<src_lang> and so on, and make `path` appear after the block.

    So what the block writes elsewhere and the directory appear together, or neither if it raises
    an error. A set without pairs has no files. Raises DataError when the text is not the one that
    was split, and DiskError.
    """
    refuse_existing(path)
    with atomic_directory(path) as partial:
        with bytes_bar("writing", text.paths) as on_bytes:
            pairs = read_pairs(text, on_bytes=on_bytes)
            _write_pairs(partial, split, pairs, languages=(src_lang, tgt_lang))
        yield


def _write_pairs(
    directory: Path,
    split: Split,
    pairs: Iterator[tuple[str, str]],
    *,
    languages: tuple[str, str],
) -> None:
    with ExitStack() as stack:
        files = {
            part: [
                stack.enter_context((directory / f"{name}.{language}").open("wb"))
                for language in languages
            ]
            for part, name in FILE_NAMES.items()
            if split.count(part) > 0
        }
        num_pairs = 0
        for value, pair in zip(split.parts.tolist(), pairs, strict=False):
            num_pairs += 1
            part = Part(value)
            if part not in files:
                continue
            for file, text in zip(files[part], pair, strict=True):
                file.write(encode_line(text))
        if num_pairs != len(split.parts) or next(pairs, None) is not None:
            raise DataError("the text changed while it was read; start again")
