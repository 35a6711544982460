"""The race is fair: both sides have like models, the same batches and the same loss; useful work is what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from copy_task import write_copy_task
from shell import mt

from mt.config.load import load_config
from mt.config.schema import ModelConfig
from mt.data.batching import Batch
from mt.model.transformer import Transformer
from mt.training.objective import Objective
from scripts.benchmarks.plain_loop import PlainTrainer
from scripts.benchmarks.train_speed import require_equal_work, useful_flops

TOP = Path(__file__).resolve().parents[2]
CONFIG = """\
data: {src_lang: aa, tgt_lang: bb, train: [{prefix: AT/train}], valid: {name: valid, prefix: AT/valid}, max_length: 16}
tokenizer: {vocab_size: 320}
model: {d_model: 16, d_ff: 32, num_heads: 2, num_encoder_layers: 1, num_decoder_layers: 1, dropout: 0.1,
        attention_dropout: 0.1, activation_dropout: 0.1}
train: {batch_tokens: 64, max_steps: 100, optimizer: adam, precision: fp32}
search: {beam_size: 1, batch_tokens: 64}
"""


def make_batch() -> Batch:
    """Two pairs: 3 source tokens and 2 of the target; 1 and 4."""
    src = torch.tensor([[5, 6, 3], [3, 0, 0]])
    tgt_out = torch.tensor([[7, 3, 0, 0], [8, 9, 5, 3]])
    tgt_in = torch.tensor([[2, 7, 0, 0], [2, 8, 9, 5]])
    return Batch(src, tgt_in, tgt_out, 6)


def test_useful_work_is_that_of_real_tokens_alone() -> None:
    """By hand, for one layer each, d_model 2, d_ff 3, a vocabulary of 10."""
    model = ModelConfig(d_model=2, d_ff=3, num_heads=1, num_encoder_layers=1, num_decoder_layers=1)
    matrices = {
        "encoder": 4 * 4 + 12,
        "decoder": 6 * 4 + 12,
        "memory": 2 * 4,
        "output": 2 * 10,
    }  # weights
    products = 6 * (
        (matrices["encoder"] + matrices["memory"]) * 4
        + (matrices["decoder"] + matrices["output"]) * 6
    )
    attention = (
        12 * 2 * ((9 + 1) + (4 + 16) + (2 * 3 + 4 * 1))
    )  # within the source, within the target, from it
    assert useful_flops(model, make_batch(), 0, 10) == products + attention


def test_both_sides_have_models_of_the_same_size_and_the_same_loss_of_the_same_batch(
    tmp_path: Path,
) -> None:
    config = load_config(write_copy_task(tmp_path, CONFIG))
    plain = PlainTrainer(config, vocab_size=20, pad_id=0, device=torch.device("cpu"))
    transformer = Transformer(config.model, src_vocab_size=20, tgt_vocab_size=20, pad_id=0)
    ours = Objective(
        transformer, label_smoothing=config.train.label_smoothing, dtype=torch.float32
    ).eval()
    num_ours, num_plain = (
        sum(weight.numel() for weight in side.parameters()) for side in (ours, plain.model)
    )
    assert num_ours == num_plain
    # With each position's state the same, so is the loss.
    states = torch.randn(2, 4, config.model.d_model)
    transformer.forward = plain.model.forward = lambda *_: states  # type: ignore[method-assign]
    plain.model.table.weight.data = transformer.output_table.data
    sums, logits = ours(make_batch()), plain.logits(make_batch())
    torch.testing.assert_close(plain.criterion(*logits), sums.loss / 6)
    assert plain.mean_nll([make_batch()]) == pytest.approx(float(sums.nll) / 6)


def test_the_plain_model_sees_neither_padding_nor_the_future(tmp_path: Path) -> None:
    plain = PlainTrainer(
        load_config(write_copy_task(tmp_path, CONFIG)),
        vocab_size=20,
        pad_id=0,
        device=torch.device("cpu"),
    )
    model, batch = plain.model.eval(), make_batch()
    states = model(batch.src, batch.tgt_in)
    torch.testing.assert_close(model(batch.src[1:, :1], batch.tgt_in[1:, :3]), states[1:, :3])


def test_a_config_that_the_plain_loop_cannot_follow_is_refused(tmp_path: Path) -> None:
    path = write_copy_task(tmp_path, CONFIG)
    require_equal_work(load_config(path))
    for change in (
        "train.optimizer=adamw",
        "model.attention_dropout=0.2",
        "model.norm=post",
        "train.gradient_accumulation=2",
    ):
        with pytest.raises(SystemExit, match=change.split("=")[0]):
            require_equal_work(load_config(path, [change]))


def run_benchmark(*arguments: str | Path) -> list[str]:
    """The lines that it prints, on one thread."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "scripts.benchmarks.benchmark",
        *arguments,
        "--threads",
        "1",
    ]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=TOP
    ).stdout.splitlines()


def test_a_short_race_prints_its_ratio_first_and_learns_what_an_untimed_course_does(
    tmp_path: Path,
) -> None:
    train = ["train", "--config", write_copy_task(tmp_path, CONFIG), "--block", "2"]
    *_, before, end, ratio, _, ours, plain, parts = run_benchmark(
        *train, "--warm-up", "2", "--updates", "4"
    )
    assert re.fullmatch(
        r"ours over plain, target tokens a second: [\d.]+ \(half of the blocks [\d.]+ to [\d.]+\)",
        ratio,
    )
    assert [line.split()[0] for line in (ours, plain)] == ["ours", "baseline"]
    assert parts.startswith("an update of ours: data ")
    pattern = r"nll after [26] updates: \{'ours': ([\d.]+), 'baseline': ([\d.]+)\}"
    first, last = (re.fullmatch(pattern, line) for line in (before, end))
    assert first is not None
    assert last is not None
    assert all(float(b) < float(a) for a, b in zip(first.groups(), last.groups(), strict=True)), (
        "both learn"
    )
    assert run_benchmark(*train, "--course", "6", "2")[-2:] == [before, end]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_short_race_of_translators_prints_its_ratios_first_and_both_say_much_the_same(
    tmp_path: Path,
) -> None:
    pytest.importorskip("ctranslate2")
    learned = (
        "model.d_model=64",
        "train.learning_rate=5e-3",
        "train.warmup_steps=20",
        "train.batch_tokens=512",
    )
    changes = [word for change in learned for word in ("--set", change)]
    config = write_copy_task(tmp_path, CONFIG)
    assert mt("train", "--config", config, "--run-dir", tmp_path / "run", *changes).code == 0
    options = [
        "--src",
        tmp_path / "train.aa",
        "--ref",
        tmp_path / "train.bb",
        "--limit",
        "30",
        "--repeats",
        "2",
    ]
    greedy, beam, what, _, *sides = run_benchmark("translate", tmp_path / "run", *options)
    for words, line in (("greedy", greedy), ("beam 5", beam)):
        ratio = r"ours takes [\d.]+ x the time of CTranslate2 \([\d.]+ to [\d.]+\)"
        assert re.fullmatch(f"{words}: {ratio}", line), line
    assert what == "30 sentences of train.aa, 1 threads, float32, 2 blocks each"
    equal = {
        " ".join(side.split()[:-4]): int(side.split()[-2]) for side in sides
    }  # "ours 5": translations
    assert (
        min(equal["CTranslate2 float32 1"], equal["CTranslate2 float32 5"]) >= 25
    )  # nobody taught it to end each
