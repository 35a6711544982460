"""mt translate with an export for CTranslate2, in place of a run.

Texts are split, encoded and joined as with the run. The search of CTranslate2 follows the same
rules, except for two details. It excludes the forbidden tokens before it computes probabilities, so
the other tokens are a little more probable. And it ends a translation of the longest length without
eos, so the score lacks the probability of eos.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch

from mt.config.load import load_run_config
from mt.data.source_stats import SourceStats
from mt.data.tokenizer import Tokenizer
from mt.decoding.search import Hypothesis
from mt.decoding.segment_search import SEARCH_OUT_OF_MEMORY, BatchedSearch, SourceSegment
from mt.decoding.text_translator import TextTranslator, change_search
from mt.device import find_device, oom_as_device_error
from mt.errors import RunDirError
from mt.export.ctranslate2 import import_ctranslate2
from mt.export.positions import num_positions
from mt.export.tokens import vocabulary
from mt.storage.atomic import sha256
from mt.storage.run_dir import CTRANSLATE2_MODEL, RunDir


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CTranslate2Translator(TextTranslator):
    """Translates texts with a model that `mt export --to ctranslate2` wrote."""

    engine: Any  # ctranslate2.Translator
    model_path: Path
    num_positions: int

    @classmethod
    @oom_as_device_error("to load this model")
    def load(
        cls,
        directory: Path,
        *,
        device: str = "auto",
        beam_size: int | None = None,
        length_penalty: float | None = None,
        exact: bool = False,
        split_lines: bool = True,
    ) -> Self:
        """Load an export. The options are those of `Translator.load`.

        Matrix products have the precision that the export was quantized to. Raises RunDirError for
        an export without a config, as earlier versions wrote it, and for a model that ctranslate2
        cannot load, and PackageError if ctranslate2 is not installed.
        """
        run = RunDir(directory)
        if not run.config_path.is_file():
            raise RunDirError(
                f"{directory}: an export by an earlier version, without config.yaml; export the "
                "run again"
            )
        config = load_run_config(run.config_path)
        src_path, tgt_path = run.tokenizer_paths(config.tokenizer.joint)
        translator = cls(
            src_tokenizer=Tokenizer.load(src_path),
            tgt_tokenizer=Tokenizer.load(tgt_path),
            engine=_open_engine(directory, find_device(device).type),
            model_path=directory / CTRANSLATE2_MODEL,
            num_positions=num_positions(config),
            search=change_search(
                config.search, beam_size=beam_size, length_penalty=length_penalty, exact=exact
            ),
            max_length=config.data.max_length,
            split_lines=split_lines,
        )
        source_stats = SourceStats.load(run.source_stats_path)
        return translator.with_run_settings(config, source_stats=source_stats)

    @property
    def max_positions(self) -> int:
        """The most tokens that the model has positions for."""
        return self.num_positions

    @cached_property
    def segment_search(self) -> "CTranslate2Search":
        """The search for translations of segments."""
        return CTranslate2Search(
            engine=self.engine,
            src_tokenizer=self.src_tokenizer,
            tgt_tokenizer=self.tgt_tokenizer,
            settings=self.search,
            max_positions=self.max_positions,
            on_progress=self.on_progress,
        )

    def describe_model(self) -> dict[str, Any]:
        """Return all that translations depend on: see `TextTranslator.describe_model`."""
        return {
            "model": sha256(self.model_path),
            "device": self.engine.device,
            "precision": self.engine.compute_type,
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class CTranslate2Search(BatchedSearch):
    """Finds the translations of segments by the beam search of CTranslate2."""

    engine: Any  # ctranslate2.Translator
    src_tokenizer: Tokenizer

    @oom_as_device_error(SEARCH_OUT_OF_MEMORY)
    def search_batch(
        self, segments: Sequence[SourceSegment], num_hypotheses: int
    ) -> list[list[Hypothesis]]:
        """Return one to `num_hypotheses` hypotheses of each segment, best first.

        A batch of CTranslate2 has one limit on the length of translations. So the segments with
        equal `length_limits` make one batch. The batches run in parallel, one on each core.
        """
        indices_by_limit = defaultdict(list)
        for index, limit in enumerate(self.length_limits(segments)):
            indices_by_limit[limit].append(index)
        results: dict[int, Any] = {}
        for limit, indices in indices_by_limit.items():
            batch = [segments[index] for index in indices]
            results.update(zip(indices, self._start(batch, num_hypotheses, limit), strict=True))
        return [self._read_result(results[index].result()) for index in range(len(segments))]

    def _start(self, segments: Sequence[SourceSegment], beam_size: int, limit: int) -> list[Any]:
        """Start the search of one batch, and return the future results of its segments."""
        sources = []
        for segment in segments:
            assert not segment.target_prefix, "a target prefix needs our own search"
            # CTranslate2 adds eos itself.
            sources.append([self._src_names[token_id] for token_id in segment.ids[:-1]])
        results: list[Any] = self.engine.translate_batch(
            sources,
            beam_size=beam_size,
            num_hypotheses=beam_size,
            length_penalty=self.settings.length_penalty,
            max_input_length=self.max_positions,
            min_decoding_length=0,
            max_decoding_length=max(limit - 1, 1),  # without eos
            suppress_sequences=self._forbidden_names,
            return_end_token=True,  # so that eos counts in the length that divides a score
            return_scores=True,
            asynchronous=True,
        )
        return results

    def _read_result(self, result: Any) -> list[Hypothesis]:
        """Return the hypotheses of one segment, best first."""
        penalty = self.settings.length_penalty
        hypotheses = []
        for names, score in zip(result.hypotheses, result.scores, strict=True):
            log_prob = score * len(names) ** penalty
            ids = tuple(self._tgt_ids[name] for name in names)
            if ids[-1] == self.tgt_tokenizer.eos_id:
                ids = ids[:-1]
            score = log_prob / (len(ids) + 1) ** penalty
            hypotheses.append(Hypothesis(ids, log_prob=log_prob, score=score))
        return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)

    @cached_property
    def _src_names(self) -> list[str]:
        return vocabulary(self.src_tokenizer)

    @cached_property
    def _tgt_ids(self) -> dict[str, int]:
        names = vocabulary(self.tgt_tokenizer)
        return {name: token_id for token_id, name in enumerate(names)}

    @cached_property
    def _forbidden_names(self) -> list[list[str]]:
        names = vocabulary(self.tgt_tokenizer)
        return [[names[token_id]] for token_id in self.tgt_tokenizer.forbidden_ids]


def _open_engine(directory: Path, device: str) -> Any:
    """Return a ctranslate2.Translator that searches one batch on each core, or on a GPU.

    Raises RunDirError if it cannot load the model.
    """
    num_threads = torch.get_num_threads()
    num_batches = num_threads if device == "cpu" else 1
    try:
        return import_ctranslate2().Translator(
            str(directory),
            device=device,
            compute_type="default",  # that of the weights in the file, if the device has it
            inter_threads=num_batches,
            intra_threads=1,
        )
    except (RuntimeError, ValueError) as error:
        raise RunDirError(f"{directory}: CTranslate2 cannot load the model: {error}") from error
    finally:
        # CTranslate2 has set PyTorch's number of threads to `intra_threads`.
        torch.set_num_threads(num_threads)
