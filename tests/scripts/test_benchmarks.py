"""The benchmarks compare like with like, and print what they promise."""

from __future__ import annotations

import io
import json
import multiprocessing
import re
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from copy_task import write_copy_task
from shell import mt

from mt.config.load import load_config
from mt.config.schema import ModelConfig
from mt.data.batching import Batch
from mt.decoding.translation import Translation
from mt.model.transformer import Transformer
from mt.training.objective import Objective
from scripts.benchmarks.batch_invariance import compare
from scripts.benchmarks.changed_text import CHANGES
from scripts.benchmarks.gradient_variance import GradientSums
from scripts.benchmarks.large_text import (
    STEPS,
    Measurement,
    generate_text,
    plot,
    private_memory,
    run_step,
)
from scripts.benchmarks.plain_loop import PlainTrainer
from scripts.benchmarks.train_speed import print_speed, require_equal_work
from scripts.benchmarks.train_worker import MT, PLAIN_LOOP, Block, useful_flops
from scripts.benchmarks.translate_speed import form_batches

TOP = Path(__file__).resolve().parents[2]
CONFIG = """\
data:
  src_lang: aa
  tgt_lang: bb
  train: [{prefix: AT/train}]
  valid: {name: valid, prefix: AT/valid}
  max_length: 16
tokenizer: {vocab_size: 320}
model:
  d_model: 16
  d_ff: 32
  num_heads: 2
  num_encoder_layers: 1
  num_decoder_layers: 1
  dropout: 0.1
  attention_dropout: 0.1
  activation_dropout: 0.1
train: {batch_tokens: 64, max_steps: 100, optimizer: adam, precision: fp32}
search: {beam_size: 1, batch_tokens: 64}
"""


def make_batch() -> Batch:
    """Return two pairs: of 3 source and 2 target tokens, and of 1 and 4."""
    src = torch.tensor([[5, 6, 3], [3, 0, 0]])
    tgt_in = torch.tensor([[2, 7, 0, 0], [2, 8, 9, 5]])
    tgt_out = torch.tensor([[7, 3, 0, 0], [8, 9, 5, 3]])
    return Batch(src, tgt_in, tgt_out, 6)


def run_module(name: str, *arguments: str | Path) -> list[str]:
    """Run a script as a module; return the lines that it prints."""
    command = [sys.executable, "-W", "ignore", "-m", f"scripts.benchmarks.{name}", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, cwd=TOP)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def run_main(name: str, *arguments: str | Path) -> list[str]:
    """Run a script in this process, which has imported PyTorch already; return what it prints."""
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
        redirect_stdout(printed),
    ):
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        warnings.simplefilter("ignore")
        import_module(f"scripts.benchmarks.{name}").main()
    return printed.getvalue().splitlines()


# benchmark.py train


def test_useful_flops_count_real_tokens_only() -> None:
    """Counted by hand: one layer each, d_model 2, d_ff 3, a vocabulary of 10."""
    model = ModelConfig(d_model=2, d_ff=3, num_heads=1, num_encoder_layers=1, num_decoder_layers=1)
    num_src_tokens = 3 + 1
    num_tgt_tokens = 2 + 4
    encoder_weights = 4 * 4 + 12
    decoder_weights = 6 * 4 + 12
    memory_weights = 2 * 4  # keys and values of the attention to the source
    output_weights = 2 * 10
    products = 6 * (
        (encoder_weights + memory_weights) * num_src_tokens
        + (decoder_weights + output_weights) * num_tgt_tokens
    )
    attention_in_source = 3 * 3 + 1 * 1
    attention_in_target = 2 * 2 + 4 * 4
    attention_to_source = 2 * 3 + 4 * 1
    attention = 12 * 2 * (attention_in_source + attention_in_target + attention_to_source)
    flops = useful_flops(model, make_batch(), pad_id=0, vocab_size=10)
    assert flops == products + attention


def test_useful_flops_count_the_gate() -> None:
    sizes = {"d_model": 2, "d_ff": 3, "num_heads": 1}
    plain = ModelConfig(**sizes, num_encoder_layers=1, num_decoder_layers=1)
    gated = plain.model_copy(update={"activation": "swiglu"})
    num_tokens = 3 + 1 + 2 + 4
    gate_weights = 2 * 3
    difference = useful_flops(gated, make_batch(), pad_id=0, vocab_size=10) - useful_flops(
        plain, make_batch(), pad_id=0, vocab_size=10
    )
    assert difference == 6 * gate_weights * num_tokens


def test_plain_loop_has_the_model_size_and_the_loss_of_mt(tmp_path: Path) -> None:
    config = load_config(write_copy_task(tmp_path, CONFIG))
    plain = PlainTrainer(config, vocab_size=20, pad_id=0, device=torch.device("cpu"))
    transformer = Transformer(config.model, src_vocab_size=20, tgt_vocab_size=20, pad_id=0)
    objective = Objective(transformer, label_smoothing=config.train.label_smoothing).eval()
    num_parameters = sum(parameter.numel() for parameter in objective.parameters())
    assert sum(parameter.numel() for parameter in plain.model.parameters()) == num_parameters

    # With the same states at each position, the losses are the same.
    states = torch.randn(2, 4, config.model.d_model)
    transformer.forward = lambda *_: states  # type: ignore[method-assign]
    plain.model.forward = lambda *_: states  # type: ignore[method-assign]
    plain.model.table.weight.data = transformer.output_weight.data
    sums = objective(make_batch())
    logits, targets = plain.logits_and_targets(make_batch())
    torch.testing.assert_close(plain.criterion(logits, targets), sums.loss / 6)
    assert plain.mean_nll([make_batch()]) == pytest.approx(float(sums.nll) / 6)


def test_plain_model_masks_padding_and_the_future(tmp_path: Path) -> None:
    config = load_config(write_copy_task(tmp_path, CONFIG))
    plain = PlainTrainer(config, vocab_size=20, pad_id=0, device=torch.device("cpu"))
    model = plain.model.eval()
    batch = make_batch()
    states = model(batch.src, batch.tgt_in)
    without_padding_and_future = model(batch.src[1:, :1], batch.tgt_in[1:, :3])
    torch.testing.assert_close(without_padding_and_future, states[1:, :3])


@pytest.mark.parametrize(
    "change",
    [
        "train.optimizer=adamw",
        "model.attention_dropout=0.2",
        "model.norm=post",
        "model.norm_kind=rms_norm",
        "model.activation=swiglu",
        "train.gradient_accumulation=2",
    ],
)
def test_config_that_the_plain_loop_cannot_follow_is_refused(change: str, tmp_path: Path) -> None:
    path = write_copy_task(tmp_path, CONFIG)
    require_equal_work(load_config(path))
    key, _ = change.split("=")
    with pytest.raises(SystemExit, match=re.escape(key)):
        require_equal_work(load_config(path, [change]))


def test_half_of_the_blocks_is_within_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Quantiles that extrapolate would go from 0.25 to 4.75 here."""
    plain = Block(num_tokens=100, flops=1.0, seconds=1.0, peak_flops=1.0, peak_bytes=1)
    blocks = {MT: [plain, plain._replace(num_tokens=400)], PLAIN_LOOP: [plain, plain]}
    print_speed(blocks)
    line = capsys.readouterr().out.splitlines()[0]
    assert line.endswith(": 2.50 (half of the blocks 1.75 to 3.25)")


def test_train_benchmark_prints_ratio_and_nll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training in turns with timing must learn the same as training at the same time without."""
    config = write_copy_task(tmp_path, CONFIG)
    train = ["train", "--config", config, "--block", "2", "--threads", "1"]
    output = run_module("benchmark", *train, "--warm-up", "2", "--updates", "4")
    *_, nll_before, nll_after, ratio, _, ours, plain, parts = output

    pattern = r"mt / plain loop, target tokens/s: [\d.]+ \(half of the blocks [\d.]+ to [\d.]+\)"
    assert re.fullmatch(pattern, ratio), ratio
    assert ours.startswith("mt ")
    assert plain.startswith("plain loop ")
    assert parts.startswith("an update of mt: data ")

    pattern = r"nll after [26] updates: mt ([\d.]+), plain loop ([\d.]+)"
    first = re.fullmatch(pattern, nll_before)
    last = re.fullmatch(pattern, nll_after)
    assert first is not None, nll_before
    assert last is not None, nll_after
    for before, after in zip(first.groups(), last.groups(), strict=True):
        assert float(after) < float(before), "both learn"

    # Forked workers start at once. No speed is printed, so the machine's need not be measured.
    forking = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
    monkeypatch.setattr("scripts.benchmarks.train_speed.multiprocessing", forking)
    monkeypatch.setattr("scripts.benchmarks.train_worker.matmul_peak", lambda runtime: 1.0)
    untimed = run_main("benchmark", *train, "--nll-after", "6", "2")
    assert untimed[-2:] == [nll_before, nll_after]


# benchmark.py translate


def test_batches_for_ctranslate2_are_sorted_and_limited() -> None:
    lengths = [3, 9, 1, 4, 40, 2]
    batches = form_batches(lengths, batch_tokens=12)
    assert batches == [[4], [1], [3], [2, 5, 0]], "longest first"


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_translate_benchmark_prints_ratios_and_equal_translations(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    config = write_copy_task(tmp_path, CONFIG)
    run_dir = tmp_path / "run"
    overrides = []
    for change in (
        "model.d_model=64",
        "train.learning_rate=5e-3",
        "train.warmup_steps=20",
        "train.batch_tokens=512",
    ):
        overrides += ["--set", change]
    assert mt("train", "--config", config, "--run-dir", run_dir, *overrides).code == 0

    files = ["--src", tmp_path / "train.aa", "--ref", tmp_path / "train.bb"]
    limits = ["--limit", "30", "--repeats", "2", "--threads", "1"]
    output = run_module("benchmark", "translate", run_dir, *files, *limits)
    greedy, beam, description, _, *rows = output

    ratio = r"mt takes [\d.]+ x the time of CTranslate2 \([\d.]+ to [\d.]+\)"
    assert re.fullmatch(f"greedy: {ratio}", greedy), greedy
    assert re.fullmatch(f"beam 5: {ratio}", beam), beam
    assert description == "30 sentences of train.aa, 1 threads, float32, 2 blocks each"

    num_equal = {}
    for row in rows:
        *name, beam_size, _, _, equal, _ = row.split()
        num_equal[" ".join(name), beam_size] = int(equal)
    assert num_equal["mt", "1"] == num_equal["mt", "5"] == 30
    assert num_equal["mt float32", "1"] >= 29  # a near-tie may be decided differently
    assert num_equal["mt float32", "5"] >= 25
    # Not all: a model trained for a second may not end a sentence, and then the two limits on
    # length differ.
    assert num_equal["CTranslate2 float32", "1"] >= 25
    assert num_equal["CTranslate2 float32", "5"] >= 25


# batch_invariance.py


def translation(text: str, score: float) -> Translation:
    return Translation(text, score, log_prob=score)


def test_batch_invariance_counts_texts_lists_and_scores() -> None:
    expected = [
        [translation("a", -1.0), translation("b", -2.0)],
        [translation("c", -1.0), translation("d", -1.0)],
        [translation("e", -1.0), translation("f", -2.0)],
    ]
    found = [
        [translation("a", -1.5), translation("x", -2.0)],  # other score, other list
        [translation("d", -1.0), translation("c", -1.0)],  # other text, other list
        [translation("e", -1.0), translation("f", -3.0)],  # the same
    ]
    comparison = compare(["line 1", "line 2", "line 3"], expected, found)
    assert len(comparison.differing_lines) == 1
    for part in ("line 2", "c", "d", "-1.000000000"):
        assert part in comparison.differing_lines[0]
    assert comparison.num_differing_lists == 2
    assert comparison.num_differing_scores == 1
    assert comparison.largest_change == 0.5


# changed_text.py


def test_changed_text_prints_a_row_for_each_change(tmp_path: Path) -> None:
    config = write_copy_task(tmp_path, CONFIG)
    run_dir = tmp_path / "run"
    train = ("train", "--config", config, "--run-dir", run_dir, "--set", "train.max_steps=1")
    assert mt(*train).code == 0
    files = ["--src", tmp_path / "valid.aa", "--ref", tmp_path / "valid.bb", "--limit", "2"]
    header, *rows = run_main("changed_text", run_dir, *files)
    assert header.split() == ["BLEU", "run"]
    for row, change in zip(rows, CHANGES, strict=True):
        assert row.startswith(change.name)
        assert re.fullmatch(r"\d+\.\d( \(\d+ %\))?", row[34:].strip())


def test_each_change_changes_a_line_and_keeps_its_words() -> None:
    line = "The old man's d\u00f6g."
    for change in CHANGES[1:]:
        changed = change.apply(line)
        assert changed != line
        assert set(change.added) - {'"'} <= set(changed)
        assert len(changed) >= len(line)


# gradient_variance.py


def test_gradient_variance_prints_a_row_for_each_plan(tmp_path: Path) -> None:
    config = write_copy_task(tmp_path, CONFIG)
    run_dir = tmp_path / "run"
    train = ("train", "--config", config, "--run-dir", run_dir, "--set", "train.max_steps=1")
    assert mt(*train).code == 0
    options = ("--batch-tokens", "128", "--batches", "4")
    header, pools, in_order = run_main("gradient_variance", run_dir, *options)
    assert header.split()[-3:] == ["variance", "cost", "larger"]
    assert pools.split()[:2] == ["128", "pools"]
    assert pools.split()[-3:] == ["1.000", "1.000", "1.000"]
    assert in_order.split()[:2] == ["128", "sorted"]
    assert float(in_order.split()[-3]) > 0


def test_gradient_sums_have_the_variance_of_their_gradients() -> None:
    gradients = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sums = GradientSums()
    for gradient in gradients:
        sums.add(gradient)
    assert sums.variance() == pytest.approx(float(gradients.var(dim=0).sum()))


# plot_speed.py


def log_entry(minute: int) -> dict[str, object]:
    """Return a line of a log: the speed doubles after 30 minutes, memory grows after 10."""
    timing = {
        "elapsed_seconds": 60 * minute,
        "tokens_per_second": 1000 if minute <= 30 else 2000,
        "peak_memory": 1.5e9 if minute <= 10 else 2.25e9,
    }
    return {"kind": "train", "timing": timing}


def test_plot_speed_draws_a_run_and_prints_its_sixths(tmp_path: Path) -> None:
    entries = [log_entry(minute) for minute in range(1, 61)]
    entries.insert(30, {"kind": "valid", "timing": {"elapsed_seconds": 1800}})
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    text = "".join(f"{json.dumps(entry)}\n" for entry in entries)
    (run_dir / "metrics.jsonl").write_text(text, encoding="utf-8")

    image = tmp_path / "speed.png"
    output = run_main("plot_speed", run_dir, "-o", image, "--names", "mine")
    assert output == [
        "mine",
        "  to minute  10.0:    1,000 tokens/s, 1.50 GB",
        "  to minute  20.0:    1,000 tokens/s, 2.25 GB",
        "  to minute  30.0:    1,000 tokens/s, 2.25 GB",
        "  to minute  40.0:    2,000 tokens/s, 2.25 GB",
        "  to minute  50.0:    2,000 tokens/s, 2.25 GB",
        "  to minute  60.0:    2,000 tokens/s, 2.25 GB",
    ]
    assert image.read_bytes().startswith(b"\x89PNG")


def test_generated_text_is_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.benchmarks.large_text.NUM_WORDS", 500)
    monkeypatch.setattr("scripts.benchmarks.large_text.PAIRS_PER_BLOCK", 30)
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        generate_text(tmp_path / name, 100)
        contents.append([path.read_text() for path in sorted((tmp_path / name).iterdir())])
    assert contents[0] == contents[1]
    src, tgt = ([line.split() for line in side.splitlines()] for side in contents[0])
    assert len(src) == len(tgt) == 100
    assert 14 < sum(map(len, src)) / 100 < 17
    assert src[0] != tgt[0]


def test_step_says_how_many_pairs_it_worked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.benchmarks.large_text.NUM_WORDS", 500)
    generate_text(tmp_path, 40)
    result = run_step("count", tmp_path)
    assert result["num_pairs"] == 40
    assert result["cpu_seconds"] > 0
    assert result["memory_before"] > 10**6


def test_memory_of_a_process_that_has_ended_is_nothing() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert private_memory([str(process.pid)]) == 0


def test_steps_are_plotted_against_the_size(tmp_path: Path) -> None:
    measured = [Measurement(step, 100, 2.0, 1.0, 50.0) for step in STEPS]
    plot({100: measured, 1000: measured}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_ranks_are_compared_at_equal_work(tmp_path: Path) -> None:
    config_path = write_copy_task(tmp_path, CONFIG)
    command = [sys.executable, "-m", "scripts.benchmarks.ranks", "--config", str(config_path)]
    command += ["--turns", "1", "--warm-up", "10", "--updates", "10"]
    result = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    one, two, ratio = result.stdout.splitlines()
    assert one.startswith("1 x 1 thread")
    speeds = []
    for line in (one, two):
        found = re.search(r"([\d.]+) updates/s, ([\d,]+) target tokens/s", line)
        assert found is not None
        speeds.append((float(found[1]), int(found[2].replace(",", ""))))
    (updates_1, tokens_1), (updates_2, tokens_2) = speeds
    assert tokens_1 / updates_1 == pytest.approx(tokens_2 / updates_2, rel=0.02)  # equal work
    assert float(ratio.rpartition(" ")[2]) == pytest.approx(tokens_2 / tokens_1, abs=0.02)
