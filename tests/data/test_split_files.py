"""Files of a split text: what is in them, and that they appear together or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mt.data.split import Part, digest_pairs, split_pairs
from mt.data.split_files import split_directory
from mt.errors import DataError, DiskError

PAIRS = [(f"source {number}", f"target {number}") for number in range(30)]
PAIRS += [("", "nothing"), PAIRS[0], ("one\rline", "en\u2028rad")]


class Memory:
    """A text in memory, which is read as one on the disk."""

    name = "text"
    paths = ()

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs

    def read_units(self, *, on_bytes: object = None) -> Iterator[tuple[str, str]]:
        return iter(self.pairs)


def write(path: Path, pairs: list[tuple[str, str]], num_test: int = 4) -> None:
    split = split_pairs(digest_pairs(PAIRS), num_valid=5, num_test=num_test, seed=1)
    with split_directory(path, split, Memory(pairs), src_lang="en", tgt_lang="sv"):
        pass


def read_side(path: Path, name: str) -> list[str]:
    return (path / name).read_bytes().decode().removesuffix("\n").split("\n")


def test_files_hold_each_pair_once(tmp_path: Path) -> None:
    write(tmp_path / "out", PAIRS)
    found = []
    for name, size in (("train", 22), ("valid", 5), ("test", 4)):
        src = read_side(tmp_path / "out", f"{name}.en")
        tgt = read_side(tmp_path / "out", f"{name}.sv")
        assert len(src) == len(tgt) == size
        found += list(zip(src, tgt, strict=True))
    wanted = [*PAIRS[:30], PAIRS[-1]]
    assert sorted(found) == sorted(wanted)


def test_training_text_keeps_its_order(tmp_path: Path) -> None:
    write(tmp_path / "out", PAIRS)
    src = read_side(tmp_path / "out", "train.en")
    order = [pair[0] for pair in PAIRS]
    assert [order.index(text) for text in src] == sorted(order.index(text) for text in src)


def test_set_without_pairs_has_no_files(tmp_path: Path) -> None:
    write(tmp_path / "out", PAIRS, num_test=0)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"train.en", "train.sv", "valid.en", "valid.sv"}


def test_existing_directory_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DiskError, match="out"):
        write(tmp_path / "out", PAIRS)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("pairs", [PAIRS[:-1], [*PAIRS, ("a", "b")]])
def test_text_that_changes_while_it_is_read_is_refused(
    pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="changed"):
        write(tmp_path / "out", pairs)
    assert list(tmp_path.iterdir()) == []


def test_failure_in_the_block_leaves_nothing_behind(tmp_path: Path) -> None:
    split = split_pairs(digest_pairs(PAIRS), num_valid=5, num_test=4, seed=1)
    path = tmp_path / "out"
    with (
        pytest.raises(DiskError),
        split_directory(path, split, Memory(PAIRS), src_lang="en", tgt_lang="sv"),
    ):
        raise DiskError("the config cannot be written")
    assert list(tmp_path.iterdir()) == []
    assert split.count(Part.VALID) == 5
