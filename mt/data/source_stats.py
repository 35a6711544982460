"""What the training sources of a run look like: their lengths, and how many sentences a line has.

They are measured when a run begins, and kept in its directory. The translator reads them: a model
omits most of a line that is much longer, or has more sentences, than its training lines.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np

from mt.data.corpus import EncodedCorpus
from mt.errors import RunDirError
from mt.storage.atomic import atomic_file

# Percentages of the sources that are no longer than `usual_length` and `rare_length`. The maximum
# is not used, because a single wrong line of the corpus would determine it.
USUAL_PERCENTAGE = 99.9
RARE_PERCENTAGE = 99.99


@dataclass(frozen=True)
class SourceStats:
    """Lengths of the training sources, and the share of them with several sentences.

    The lengths are in tokens, with eos and the prefix.
    """

    usual_length: int  # USUAL_PERCENTAGE of the sources are not longer than this
    rare_length: int  # RARE_PERCENTAGE of the sources are not longer than this
    several_sentences_share: float  # share of the sources with more than one sentence, 0 to 1

    @classmethod
    def measure(cls, corpus: EncodedCorpus) -> Self | None:
        """Return the figures of a training corpus; None if its cache is of an older version."""
        if corpus.num_several_sentences is None:
            return None
        lengths = corpus.src_lengths
        usual_length, rare_length = np.percentile(
            lengths, [USUAL_PERCENTAGE, RARE_PERCENTAGE], method="higher"
        )
        return cls(
            usual_length=int(usual_length),
            rare_length=int(rare_length),
            several_sentences_share=corpus.num_several_sentences / len(corpus),
        )

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read the file that `save` wrote; None if there is none, as in older runs.

        Raises RunDirError for a damaged file.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            stats = cls(**fields)
            stats._check()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunDirError(f"{path}: cannot read: {error.strerror}") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise RunDirError(
                f"{path}: this file is damaged ({error}); delete it; then only lines of more "
                "than data.max_length tokens are split"
            ) from error
        return stats

    def save(self, path: Path) -> None:
        """Write the figures as JSON."""
        with atomic_file(path) as file:
            file.write(json.dumps(asdict(self), indent=2).encode() + b"\n")

    def _check(self) -> None:
        """Raise ValueError for values that `measure` does not return."""
        for length in (self.usual_length, self.rare_length):
            # Not `isinstance`: JSON's true and false are instances of int.
            if type(length) is not int or length < 1:
                raise ValueError(f"{length!r} is not a length")
        share = self.several_sentences_share
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise ValueError(f"{share!r} is not a share")
