"""Batches: sentence pairs as padded tensors."""

from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt.data.corpus import EncodedPairs
from mt.data.token_array import TokenArray


class Batch(NamedTuple):
    """Sentence pairs as int64 tensors, padded with pad_id at the end of each row."""

    src: Tensor  # (batch, src_length)
    tgt_in: Tensor  # (batch, tgt_length): begins with bos, lacks eos
    tgt_out: Tensor  # (batch, tgt_length): ends in eos
    num_tokens: int  # in tgt_out, without padding

    def repeat(self, times: int) -> Self:
        """Return the rows `times` times: all of them, then all of them again, and so on."""
        return self._replace(
            src=self.src.repeat(times, 1),
            tgt_in=self.tgt_in.repeat(times, 1),
            tgt_out=self.tgt_out.repeat(times, 1),
            num_tokens=times * self.num_tokens,
        )

    def to(self, device: torch.device) -> Self:
        """Return the batch on `device`; copies to a GPU are asynchronous."""
        if device.type == "cpu":
            return self
        return self._replace(
            src=self.src.pin_memory().to(device, non_blocking=True),
            tgt_in=self.tgt_in.pin_memory().to(device, non_blocking=True),
            tgt_out=self.tgt_out.pin_memory().to(device, non_blocking=True),
        )


def make_batch(pairs: EncodedPairs, *, pad_id: int, bos_id: int) -> Batch:
    """Return the pairs as padded tensors, with each prefix in front of its source."""
    src = pairs.src
    if any(pairs.src_prefixes):
        rows = zip(pairs.src_prefixes, src.rows(), strict=True)
        src = TokenArray.from_rows([[*prefix, *ids] for prefix, ids in rows])
    padded_src, _ = _pad(src, pad_id)
    tgt_out, is_token = _pad(pairs.tgt, pad_id)
    # The decoder's input is its output, one position later: bos first, and without eos.
    tgt_in = np.full_like(tgt_out, bos_id)
    tgt_in[:, 1:] = np.where(is_token[:, 1:], tgt_out[:, :-1], pad_id)
    return Batch(
        src=torch.from_numpy(padded_src),
        tgt_in=torch.from_numpy(tgt_in),
        tgt_out=torch.from_numpy(tgt_out),
        num_tokens=int(is_token.sum()),
    )


def _pad(rows: TokenArray, pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the rows, padded to the longest, and a mask that is True for tokens.

    Both have the shape (len(rows), longest).
    """
    lengths = rows.lengths
    is_token = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(is_token.shape, pad_id, np.int64)
    padded[is_token] = rows.ids
    return padded, is_token
