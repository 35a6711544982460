"""Held-out text: a split of pairs into training, validation and test sets without leaks.

Two pairs with an equal source or an equal target belong together: if one of them were in the
training text and the other in a test set, the model would have seen the source or the target of a
test pair in training. All pairs that such equalities connect are a group, a connected component.
All its pairs go into the same set.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from mt.data.normalization import is_blank, normalize

# A held-out set has at most this many pairs, and small text gives fewer: see `held_out_size`.
MAX_HELD_OUT = 1000

# A larger component is never held out, because a set of many variants of one sentence says little.
# A lower limit would leave out more of the short sentences, which have most variants.
MAX_COMPONENT_SIZE = 10

Digests = NDArray[np.uint64]


class Part(IntEnum):
    """What becomes of a pair."""

    TRAIN = 0
    VALID = 1
    TEST = 2
    BLANK = 3  # left out, because a side has no visible character
    DUPLICATE = 4  # left out, because an earlier pair is the same
    LEAK = 5  # left out, because held-out text that exists already has its source or its target


@dataclass(frozen=True)
class PairDigests:
    """Hashes of sentence pairs, 24 bytes a pair. Equal texts have equal hashes."""

    src: Digests  # (num_pairs,): of the source without upper case; 0 for a blank one
    tgt: Digests  # (num_pairs,): the same of the target
    pair: Digests  # (num_pairs,): of both sides with upper case

    def __len__(self) -> int:
        return len(self.pair)


@dataclass(frozen=True)
class Split:
    """What becomes of each pair of a text, and how a random split would have leaked."""

    parts: NDArray[np.int8]  # (num_pairs,): values of Part
    num_components: int

    # The fraction of held-out pairs whose source, or target, would be in the training text too, if
    # the pairs had been drawn at random one by one.
    random_src_leak: float
    random_tgt_leak: float

    def count(self, part: Part) -> int:
        """Return the number of pairs of a part."""
        return int(np.count_nonzero(self.parts == part))


def held_out_size(num_pairs: int) -> int:
    """Return the default size of a validation or test set for a text of so many pairs.

    It is 5 % of the pairs, but at least 200 pairs and at most MAX_HELD_OUT. A text of fewer than
    2,000 pairs gives a tenth of them.
    """
    return min(MAX_HELD_OUT, max(num_pairs // 20, min(200, num_pairs // 10)))


def digest_pairs(pairs: Iterable[tuple[str, str]]) -> PairDigests:
    """Return the hashes of pairs, in the form in which texts are compared.

    This is NFC with single spaces. Sources and targets are compared without upper case.
    """
    src_digests = bytearray()
    tgt_digests = bytearray()
    pair_digests = bytearray()
    for src, tgt in pairs:
        src = normalize(src, "nfc")
        tgt = normalize(tgt, "nfc")
        src_digests += _digest_side(src)
        tgt_digests += _digest_side(tgt)
        pair_digests += _digest(f"{src}\n{tgt}")
    return PairDigests(
        src=np.frombuffer(bytes(src_digests), "<u8"),
        tgt=np.frombuffer(bytes(tgt_digests), "<u8"),
        pair=np.frombuffer(bytes(pair_digests), "<u8"),
    )


def split_pairs(
    digests: PairDigests,
    *,
    num_valid: int | None,
    num_test: int | None,
    seed: int,
    held_out_text: Sequence[PairDigests] = (),
) -> Split:
    """Return which pairs are held out for validation and for testing.

    For a size that is None, `held_out_size` decides. `held_out_text` is validation and test text
    that exists already: a pair with the source or the target of one of its pairs is left out.

    Components are drawn at random, so each pair has the same chance to be held out, apart from
    those of components that are too large. A set is smaller than wanted if the text has too few
    components. The choice depends on the set of pairs and the seed, not on the order of the pairs.
    """
    parts = np.full(len(digests), Part.TRAIN, np.int8)
    is_blank_pair = (digests.src == 0) | (digests.tgt == 0)
    parts[is_blank_pair] = Part.BLANK
    parts[~is_blank_pair & ~_is_first(digests.pair)] = Part.DUPLICATE
    for other in held_out_text:
        is_leak = np.isin(digests.src, other.src) | np.isin(digests.tgt, other.tgt)
        parts[is_leak & (parts == Part.TRAIN)] = Part.LEAK

    kept = np.flatnonzero(parts == Part.TRAIN)
    default_size = held_out_size(len(kept))
    num_valid = default_size if num_valid is None else num_valid
    num_test = default_size if num_test is None else num_test
    src = digests.src[kept]
    tgt = digests.tgt[kept]
    components = find_components(src, tgt)
    sizes = np.bincount(components)
    order = iter(_random_order(components, digests.pair[kept], seed=seed))
    component_parts = np.full(len(sizes), Part.TRAIN, np.int8)
    for part, num_wanted in ((Part.VALID, num_valid), (Part.TEST, num_test)):
        component_parts[list(_draw(order, sizes, num_wanted))] = part
    parts[kept] = component_parts[components]

    held_out_fraction = (num_valid + num_test) / max(1, len(kept))
    return Split(
        parts,
        num_components=len(sizes),
        random_src_leak=_random_leak(src, held_out_fraction),
        random_tgt_leak=_random_leak(tgt, held_out_fraction),
    )


def find_components(src: Digests, tgt: Digests) -> NDArray[np.int64]:
    """Return the number of each pair's component, (num_pairs,); numbers begin at 0.

    A disjoint-set forest: its nodes are the different sources and targets, and each pair joins two
    of them.
    """
    different_src, src_nodes = np.unique(src, return_inverse=True)
    different_tgt, tgt_nodes = np.unique(tgt, return_inverse=True)
    parents = list(range(len(different_src) + len(different_tgt)))
    src_list = src_nodes.tolist()
    tgt_list = (tgt_nodes + len(different_src)).tolist()
    for src_node, tgt_node in zip(src_list, tgt_list, strict=True):
        parents[_find_root(parents, src_node)] = _find_root(parents, tgt_node)
    roots = [_find_root(parents, node) for node in src_list]
    _, components = np.unique(np.array(roots, np.int64), return_inverse=True)
    return components


def _find_root(parents: list[int], node: int) -> int:
    """Return the root of a node's tree. The path to it is halved, for the next search."""
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


def _random_order(components: NDArray[np.int64], pairs: Digests, *, seed: int) -> list[int]:
    """Return the components in a random order that the seed and their pairs determine.

    A component is known by the smallest digest of its pairs. The digests of these and the seed are
    sorted. So a few pairs more in a text change little.
    """
    names = np.full(components.max(initial=-1) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(names, components, pairs)
    keys = [_digest(f"{seed} {name}") for name in names.tolist()]
    return sorted(range(len(keys)), key=lambda component: keys[component])


def _draw(order: Iterator[int], sizes: NDArray[np.int64], num_pairs: int) -> Iterator[int]:
    """Yield the next components in `order` that together have `num_pairs` pairs, or fewer."""
    max_size = max(1, min(MAX_COMPONENT_SIZE, num_pairs // 10))
    remaining = num_pairs
    while remaining > 0:
        component = next(order, None)
        if component is None:
            return
        size = int(sizes[component])
        if size <= min(max_size, remaining):
            yield component
            remaining -= size


def _is_first(digests: Digests) -> NDArray[np.bool_]:
    """Return a mask of the digests that no earlier one equals."""
    _, first_indices = np.unique(digests, return_index=True)
    mask = np.zeros(len(digests), np.bool_)
    mask[first_indices] = True
    return mask


def _random_leak(digests: Digests, held_out_fraction: float) -> float:
    """Return the expected fraction of held-out texts that are in the training text too.

    Of n equal texts one is held out. The n - 1 others are held out too with the probability
    `held_out_fraction` each.
    """
    if len(digests) == 0:
        return 0.0
    _, counts = np.unique(digests, return_counts=True)
    leak_probabilities = 1.0 - min(1.0, held_out_fraction) ** (counts - 1)
    return float((counts * leak_probabilities).sum() / len(digests))


def _digest_side(text: str) -> bytes:
    """Return the hash of a normalized text without upper case; zeros for a blank one."""
    return bytes(8) if is_blank(text) else _digest(text.casefold())


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
