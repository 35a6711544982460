"""The Transformer is PyTorch's, layer by layer, and one sentence at a time, one token at a time, means the same.

Models are float64 here, so that what should be equal is equal to ten digits and a leak of any size is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from mt.config.load import load_config
from mt.config.schema import ModelConfig
from mt.errors import ConfigError, DataError
from mt.model.attention import ATTENTION_KINDS, DotProductAttention
from mt.model.kv_cache import AttentionMasks, DecoderCache
from mt.model.positions import sinusoids
from mt.model.transformer import (
    ACTIVATIONS,
    EMBEDDING_TYING,
    DecoderLayer,
    EncoderLayer,
    Transformer,
)

CONFIGS = Path(__file__).parents[2] / "configs"
PAD_ID = 0
SRC_VOCAB_SIZE, TGT_VOCAB_SIZE = 19, 23
SHAPE = {
    "d_model": 16,
    "d_ff": 24,
    "num_heads": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
}
NORMS, TIES = ("pre", "post"), ("all", "decoder", "none")
EVERY_VARIANT = [
    pytest.param(
        {"norm": norm, "activation": activation, "tie_embeddings": tie},
        id=f"{norm}-{activation}-{tie}",
    )
    for norm, activation, tie in product(NORMS, ACTIVATIONS, TIES)
]
EVERY_NORM = [pytest.param({"norm": norm}, id=norm) for norm in NORMS]
MAX_LENGTH = 8  # positions for a dense_synthesizer: no sentence of the tests is longer
PAIRS_OF_KINDS = [
    kinds for kinds in product(ATTENTION_KINDS, ATTENTION_KINDS) if kinds[1] != "dense_synthesizer"
]
EVERY_KIND = [
    pytest.param({"self_attention": kind, "cross_attention": cross}, id=f"{kind}-{cross}")
    for kind, cross in PAIRS_OF_KINDS
    if (kind, cross) != ("dot_product", "dot_product")  # which all others have
]


def make_model(**settings: Any) -> Transformer:
    """In evaluation mode, every parameter random, as no bias and no norm is after some training."""
    if settings.get("self_attention") == "dense_synthesizer":
        settings = {"max_length": MAX_LENGTH, **settings}
    config = ModelConfig(**{**SHAPE, **settings})
    tgt_vocab_size = SRC_VOCAB_SIZE if config.tie_embeddings == "all" else TGT_VOCAB_SIZE
    torch.manual_seed(1)
    model = Transformer(
        config, src_vocab_size=SRC_VOCAB_SIZE, tgt_vocab_size=tgt_vocab_size, pad_id=PAD_ID
    )
    randomise(model.double().eval())
    return model


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


def random_ids(*shape: int, seed: int = 1) -> Tensor:
    """Token ids that are in both vocabularies and none of them padding."""
    return torch.randint(1, SRC_VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))


def states_of(model: Transformer, src: Tensor, tgt_in: Tensor) -> Tensor:
    with torch.no_grad():
        states: Tensor = model(src, tgt_in)
    return states


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)


def assert_different(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape
    assert float((one - other).abs().max()) > 1e-3


# Laws of decoding


@pytest.mark.parametrize("settings", EVERY_VARIANT + EVERY_KIND)
@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1, 1), (3, 1, 2)])
def test_full_decoding_is_incremental_decoding(
    settings: dict[str, Any], pieces: tuple[int, ...]
) -> None:
    model = make_model(**settings)
    src, tgt = random_ids(3, 5), random_ids(3, 6, seed=2)
    src[1, 3:] = PAD_ID
    full = model.logits(states_of(model, src, tgt))
    with torch.no_grad():
        cache = model.start(model.encode(src))
        states = []
        for piece in tgt.split(list(pieces), dim=1):
            assert cache.length == sum(state.size(1) for state in states)
            state, cache = model.decode(piece, cache)
            states.append(state)
    assert_same(model.logits(torch.cat(states, dim=1)), full)


@pytest.mark.parametrize("settings", EVERY_NORM + EVERY_KIND)
@pytest.mark.parametrize(
    "before", [1, 3]
)  # positions one by one: from the second on there is room to write into
def test_a_cache_is_a_value_that_decoding_does_not_change(
    settings: dict[str, Any], before: int
) -> None:
    model = make_model(**settings)
    src, tgt = random_ids(2, 5), random_ids(2, 7, seed=2)
    with torch.no_grad():
        cache = model.start(model.encode(src))
        for position in range(before):
            _, cache = model.decode(tgt[:, position : position + 1], cache)
        first, one = model.decode(tgt[:, 3:4], cache)
        _, other = model.decode(tgt[:, 4:5], cache)
        cache.reorder(torch.zeros(2, 3, dtype=torch.long))
        for branch, token in ((one, 3), (other, 4)):  # each goes on as if the other had never been
            states, _ = model.decode(tgt[:, 5:6], branch)
            alone = torch.cat((tgt[:, :before], tgt[:, [token]], tgt[:, 5:6]), dim=1)
            assert_same(states, states_of(model, src, alone)[:, -1:])
        again, _ = model.decode(tgt[:, 3:4], cache)
    assert torch.equal(again, first)


@pytest.mark.parametrize("use", ["itself", "older", "sibling"])
def test_what_shares_memory_with_a_cache_of_which_some_sentences_were_kept_refuses_to_go_on(
    use: str,
) -> None:
    model = make_model()
    src, tgt = random_ids(3, 5), random_ids(3, 3, seed=2)
    with torch.no_grad():
        older = model.start(model.encode(src))
        _, cache = model.decode(tgt[:, :1], older)
        _, sibling = model.decode(tgt[:, 1:2], older)
        cache.keep([2])
        spoilt = {"itself": cache, "older": older, "sibling": sibling}[use]
        with pytest.raises(AssertionError, match="keep"):
            model.decode(tgt[:, 2:3], spoilt)


def test_a_wrong_number_of_rows_is_not_decoded() -> None:
    model = make_model()
    cache = model.start(model.encode(random_ids(3, 5))).reorder(torch.zeros(3, 2, dtype=torch.long))
    with pytest.raises(RuntimeError):
        model.decode(random_ids(3, 1), cache)


@pytest.mark.parametrize("settings", EVERY_VARIANT + EVERY_KIND)
def test_a_batch_of_sentences_is_each_sentence_alone(settings: dict[str, Any]) -> None:
    model = make_model(**settings)
    lengths = [(6, 2), (1, 5), (4, 4), (3, 1)]
    src, tgt = random_ids(4, 6), random_ids(4, 5, seed=2)
    for row, (src_length, tgt_length) in enumerate(lengths):
        src[row, src_length:] = PAD_ID
        tgt[row, tgt_length:] = PAD_ID
    together = states_of(model, src, tgt)
    for row, (src_length, tgt_length) in enumerate(lengths):
        alone = states_of(model, src[row : row + 1, :src_length], tgt[row : row + 1, :tgt_length])
        assert_same(together[row, :tgt_length], alone[0])


@pytest.mark.parametrize("settings", EVERY_NORM + EVERY_KIND)
@pytest.mark.parametrize(("src_padding", "tgt_padding"), [(3, 0), (0, 4), (2, 2)])
def test_padding_changes_nothing(
    settings: dict[str, Any], src_padding: int, tgt_padding: int
) -> None:
    model = make_model(**settings)
    src, tgt = random_ids(2, 4), random_ids(2, 3, seed=2)
    padded = nn.functional.pad(src, (0, src_padding)), nn.functional.pad(tgt, (0, tgt_padding))
    assert PAD_ID == 0, "F.pad fills with zeros"
    assert_same(states_of(model, *padded)[:, :3], states_of(model, src, tgt))


@pytest.mark.parametrize("settings", EVERY_NORM + EVERY_KIND)
@pytest.mark.parametrize("position", range(5))
def test_a_target_token_changes_its_own_state_and_later_ones_but_none_before(
    settings: dict[str, Any], position: int
) -> None:
    model = make_model(**settings)
    src, tgt = random_ids(2, 4), random_ids(2, 5, seed=2)
    other = tgt.clone()
    other[:, position] = tgt[:, position] % (SRC_VOCAB_SIZE - 1) + 1
    one, two = states_of(model, src, tgt), states_of(model, src, other)
    assert_same(two[:, :position], one[:, :position])
    for later in range(position, 5):
        assert_different(two[:, later], one[:, later])


@pytest.mark.parametrize("settings", EVERY_NORM + EVERY_KIND)
@pytest.mark.parametrize("position", range(4))
def test_every_source_token_reaches_every_target_state(
    settings: dict[str, Any], position: int
) -> None:
    model = make_model(**settings)
    src, tgt = random_ids(2, 4), random_ids(2, 3, seed=2)
    other = src.clone()
    other[:, position] = src[:, position] % (SRC_VOCAB_SIZE - 1) + 1
    one, two = states_of(model, src, tgt), states_of(model, other, tgt)
    for target_position in range(3):
        assert_different(two[:, target_position], one[:, target_position])


@pytest.mark.parametrize("settings", EVERY_NORM + EVERY_KIND)
@pytest.mark.parametrize("side", ["src", "tgt"])
def test_the_order_of_the_words_matters(settings: dict[str, Any], side: str) -> None:
    model = make_model(**settings)
    src, tgt = random_ids(2, 4), random_ids(2, 4, seed=2)
    turned = (src.flip(1), tgt) if side == "src" else (src, tgt[:, [1, 0, 2, 3]])
    assert_different(states_of(model, *turned)[:, -1], states_of(model, src, tgt)[:, -1])


# Beams


@pytest.mark.parametrize("settings", EVERY_NORM + EVERY_KIND)
@pytest.mark.parametrize("beam", [1, 3])
def test_beams_share_a_source_and_each_goes_on_as_if_alone(
    settings: dict[str, Any], beam: int
) -> None:
    model = make_model(**settings)
    src, tgt = random_ids(3, 5), random_ids(3 * beam, 4, seed=2)  # rows = batch * beam
    src[0, 2:] = PAD_ID
    with torch.no_grad():
        cache = model.start(model.encode(src)).reorder(torch.zeros(3, beam, dtype=torch.long))
        steps = []
        for column in tgt.split(1, dim=1):
            state, cache = model.decode(column, cache)
            steps.append(state)
    states = torch.cat(steps, dim=1)
    assert_same(states, states_of(model, src.repeat_interleave(beam, dim=0), tgt))
    for layer in cache.layers:
        assert layer.source.keys.size(0) == 3, "the source is kept once for all beams"


def decode_tokens(
    model: Transformer, tokens: Tensor, cache: DecoderCache
) -> tuple[Tensor, DecoderCache]:
    """One token (batch, beam) for each beam; states (batch, beam, d_model)."""
    with torch.no_grad():
        states, cache = model.decode(tokens.view(-1, 1), cache)
    return states.view(*tokens.shape, -1), cache


@pytest.mark.parametrize("settings", EVERY_NORM + EVERY_KIND)
@pytest.mark.parametrize("many_keys", [1, 1000])  # dropped whenever they are nobody's, or never
def test_reorder_and_keep_mean_what_recomputation_from_scratch_means(
    settings: dict[str, Any], many_keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search's calls in random order, beside a record of what each beam's source and prefix have become."""
    monkeypatch.setattr("mt.model.kv_cache.MANY_KEYS", many_keys)
    model = make_model(**settings)
    generator = torch.Generator().manual_seed(5)
    src = random_ids(5, 6)
    src[1, 3:] = src[4, 1:] = PAD_ID
    cache = model.start(model.encode(src))
    prefixes = torch.empty(5, 1, 0, dtype=torch.long)  # (batch, beam, length)
    keeps = [[0, 1, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 3], [2, 0, 3], [1, 2], [1]]
    for beam, kept in zip([3, 3, 2, 4, 1, 2], keeps, strict=True):
        tokens = torch.randint(1, SRC_VOCAB_SIZE, prefixes.shape[:2], generator=generator)
        prefixes = torch.cat((prefixes, tokens[..., None]), dim=2)
        states, cache = decode_tokens(model, tokens, cache)
        sources = src.repeat_interleave(tokens.size(1), dim=0)
        assert_same(states.flatten(0, 1), states_of(model, sources, prefixes.flatten(0, 1))[:, -1])

        beam_index = torch.randint(tokens.size(1), (len(src), beam), generator=generator)
        cache = cache.reorder(beam_index)
        prefixes = torch.stack(
            [sentence[index] for sentence, index in zip(prefixes, beam_index, strict=True)]
        )
        cache = cache.keep(kept)
        prefixes, src = prefixes[kept], src[kept]


# Layers, embeddings and counts


def copy_attention(ours: DotProductAttention, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.copy_(torch.cat((ours.query.weight, ours.key_value.weight)))
    theirs.in_proj_bias.copy_(torch.cat((ours.query.bias, ours.key_value.bias)))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def copy_layer(
    ours: EncoderLayer | DecoderLayer, theirs: nn.Module, norms: list[nn.LayerNorm]
) -> None:
    theirs.linear1.load_state_dict(ours.feed_forward.inner.state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward.outer.state_dict())
    for number, norm in enumerate(norms, start=1):
        getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())


LAYERS = [(norm, activation) for norm, activation in product(NORMS, ACTIVATIONS)]


def pytorch_settings(norm: str, activation: str) -> dict[str, Any]:
    return {
        "d_model": SHAPE["d_model"],
        "nhead": SHAPE["num_heads"],
        "dim_feedforward": SHAPE["d_ff"],
        "activation": activation,
        "batch_first": True,
        "norm_first": norm == "pre",
        "dtype": torch.float64,
    }


@pytest.mark.parametrize(("norm", "activation"), LAYERS)
def test_an_encoder_layer_is_that_of_pytorch(norm: str, activation: str) -> None:
    torch.manual_seed(1)
    ours = EncoderLayer(ModelConfig(**SHAPE, norm=norm, activation=activation)).double().eval()
    randomise(ours)
    theirs = nn.TransformerEncoderLayer(**pytorch_settings(norm, activation)).eval()
    real = torch.arange(5) < torch.tensor([[5], [3]])
    x = torch.randn(2, 5, SHAPE["d_model"], dtype=torch.float64)
    with torch.no_grad():
        copy_attention(ours.attention, theirs.self_attn)
        copy_layer(ours, theirs, [ours.attention_residual.norm, ours.feed_forward_residual.norm])
        expected = theirs(x, src_key_padding_mask=~real)
        assert_same(ours(x, real[:, None, None, :], torch.arange(5)[None])[real], expected[real])


@pytest.mark.parametrize(("norm", "activation"), LAYERS)
def test_a_decoder_layer_is_that_of_pytorch(norm: str, activation: str) -> None:
    torch.manual_seed(1)
    ours = DecoderLayer(ModelConfig(**SHAPE, norm=norm, activation=activation)).double().eval()
    randomise(ours)
    theirs = nn.TransformerDecoderLayer(**pytorch_settings(norm, activation)).eval()
    real = torch.arange(5) < torch.tensor([[5], [3]])
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    x, memory = (torch.randn(2, length, SHAPE["d_model"], dtype=torch.float64) for length in (4, 5))
    with torch.no_grad():
        copy_attention(ours.self_attention, theirs.self_attn)
        copy_attention(ours.cross_attention, theirs.multihead_attn)
        copy_layer(
            ours,
            theirs,
            [ours.self_residual.norm, ours.cross_residual.norm, ours.feed_forward_residual.norm],
        )
        expected = theirs(x, memory, tgt_mask=~causal, memory_key_padding_mask=~real)
        sight = AttentionMasks(
            causal[None, None], torch.arange(4)[None], real[:, None, None, :], torch.arange(5)[None]
        )
        states, _ = ours(x, ours.start(memory, sight.source_positions), sight)
    assert_same(states, expected)


def test_weights_start_as_those_of_pytorch() -> None:
    """Within Glorot's bound, for queries, keys and values that of one matrix (3 * d_model, d_model); biases zero."""
    torch.manual_seed(1)
    config = ModelConfig(
        d_model=64, d_ff=128, num_heads=2, num_encoder_layers=1, num_decoder_layers=1
    )
    model = Transformer(config, src_vocab_size=9, tgt_vocab_size=9, pad_id=PAD_ID)
    theirs = nn.Transformer(64, 2, 1, 1, 128, batch_first=True)
    for layer, module in (
        (model.encoder_layers[0], theirs.encoder),
        (model.decoder_layers[0], theirs.decoder),
    ):
        for bound, weights in bounds_and_weights(layer, module.layers[0]):
            for weight in weights:
                assert float(weight.data.abs().max()) == pytest.approx(
                    float(bound.data.abs().max()), rel=0.02
                )
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    assert len(biases) == 20
    assert not any(bias.any() for bias in biases)


def bounds_and_weights(ours: Any, theirs: Any) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """A weight of PyTorch's layer, and those of ours that start within the same bound."""
    pairs = {
        "attention": "self_attn",
        "self_attention": "self_attn",
        "cross_attention": "multihead_attn",
    }
    for name, other in pairs.items():
        if attention := getattr(ours, name, None):
            pytorchs = getattr(theirs, other)
            yield (
                pytorchs.in_proj_weight,
                [attention.query.weight, *attention.key_value.weight.chunk(2)],
            )
            yield pytorchs.out_proj.weight, [attention.output.weight]
    yield theirs.linear1.weight, [ours.feed_forward.inner.weight]
    yield theirs.linear2.weight, [ours.feed_forward.outer.weight]


@pytest.mark.parametrize("tie", TIES)
def test_embeddings_meet_the_positions_at_their_scale(tie: str) -> None:
    config = ModelConfig(**{**SHAPE, "d_model": 128}, tie_embeddings=tie)
    model = Transformer(config, src_vocab_size=500, tgt_vocab_size=500, pad_id=PAD_ID).eval()
    ids = torch.arange(500)[:, None]  # each at position 0
    for role in ("src", "tgt"):
        embedded = model._embed(ids, role, torch.tensor([[0]]))[:, 0].detach() - sinusoids(
            torch.tensor([0]), 128
        )
        assert float(embedded.var()) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(
    ("tie", "names"),
    [("all", {"shared"}), ("decoder", {"src", "tgt"}), ("none", {"src", "tgt", "output"})],
)
def test_a_tied_weight_is_one_parameter_with_one_name(tie: str, names: set[str]) -> None:
    model = make_model(tie_embeddings=tie)
    tables = {key for key in model.state_dict() if key.startswith("embeddings.")}
    assert tables == {f"embeddings.{name}" for name in names}
    assert set(model.state_dict()) == {
        name for name, _ in model.named_parameters(remove_duplicate=False)
    }
    assert any(model.output_table is parameter for parameter in model.parameters())


@pytest.mark.parametrize(
    ("tie", "moved"),
    [("all", {"src", "tgt", "output"}), ("decoder", {"tgt", "output"}), ("none", {"output"})],
)
def test_changing_the_output_table_changes_what_is_tied_to_it(tie: str, moved: set[str]) -> None:
    model = make_model(tie_embeddings=tie)
    ids = random_ids(2, 3)
    before = {role: model._embed(ids, role, torch.arange(3)[None]) for role in ("src", "tgt")}
    before["output"] = model.logits(torch.ones(SHAPE["d_model"], dtype=torch.float64))
    with torch.no_grad():
        model.output_table.mul_(2.0)
    after = {role: model._embed(ids, role, torch.arange(3)[None]) for role in ("src", "tgt")}
    after["output"] = model.logits(torch.ones(SHAPE["d_model"], dtype=torch.float64))
    assert {role for role in before if not torch.equal(before[role], after[role])} == moved


@pytest.mark.parametrize("settings", EVERY_VARIANT + EVERY_KIND)
def test_the_number_of_parameters_is_the_sum_worked_out_on_paper(settings: dict[str, Any]) -> None:
    d, ff, rows = SHAPE["d_model"], SHAPE["d_ff"], SHAPE["num_heads"] * MAX_LENGTH
    attention = {
        "dot_product": 4 * (d * d + d),  # query, key, value, output
        "additive": 4 * (d * d + d) + d,  # and for each head a vector of head_dim
        "dense_synthesizer": 3 * (d * d + d)
        + d * d
        + (rows * d + rows),  # word, value, output; position; score
    }
    within = attention[settings.get("self_attention", "dot_product")]
    across = attention[settings.get("cross_attention", "dot_product")]
    feed_forward = (d * ff + ff) + (ff * d + d)
    norm = 2 * d
    encoder = SHAPE["num_encoder_layers"] * (within + feed_forward + 2 * norm)
    decoder = SHAPE["num_decoder_layers"] * (within + across + feed_forward + 3 * norm)
    last_norms = 0 if settings.get("norm") == "post" else 2 * norm
    src, tgt = SRC_VOCAB_SIZE * d, TGT_VOCAB_SIZE * d
    tables = {"all": src, "decoder": src + tgt, "none": src + 2 * tgt}[
        settings.get("tie_embeddings", "all")
    ]
    num_parameters = sum(parameter.numel() for parameter in make_model(**settings).parameters())
    assert num_parameters == encoder + decoder + last_norms + tables


@pytest.mark.parametrize("settings", EVERY_VARIANT + EVERY_KIND)
def test_every_parameter_learns(settings: dict[str, Any]) -> None:
    """But for the bias of a dot product's key: it adds the same to all scores of a query, and softmax undoes that.

    The sentences have all the positions that a dense_synthesizer has weights for, and each weight learns.
    """
    model = make_model(**settings)
    src, tgt = random_ids(8, MAX_LENGTH), random_ids(8, MAX_LENGTH, seed=2)
    model.logits(model(src, tgt)).square().sum().backward()
    d_model = SHAPE["d_model"]
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, name
        owner, _, last = name.rpartition(".key_value.")
        if last == "bias" and isinstance(model.get_submodule(owner), DotProductAttention):
            assert float(gradient[:d_model].abs().max()) < 1e-8
            gradient = gradient[d_model:]
        assert float(gradient.abs().max()) > 1e-6, name
        if "attention.score" in name:  # one row for each head and position, or for each head
            assert (gradient.abs().flatten(1 if gradient.dim() > 1 else 0) > 0).any(dim=-1).all(), (
                name
            )


# Longest sentences


@pytest.mark.parametrize(
    ("src_length", "tgt_length"), [(MAX_LENGTH, MAX_LENGTH), (1, MAX_LENGTH), (MAX_LENGTH, 1)]
)
def test_a_synthesizer_takes_sentences_up_to_its_last_position(
    src_length: int, tgt_length: int
) -> None:
    model = make_model(self_attention="dense_synthesizer")
    assert model.max_length == MAX_LENGTH
    states = states_of(model, random_ids(2, src_length), random_ids(2, tgt_length))
    assert states.shape == (2, tgt_length, SHAPE["d_model"])


@pytest.mark.parametrize(("side", "src_length", "tgt_length"), [("source", 9, 8), ("target", 8, 9)])
def test_a_longer_sentence_gets_a_clear_answer(side: str, src_length: int, tgt_length: int) -> None:
    assert MAX_LENGTH == 8
    model = make_model(self_attention="dense_synthesizer")
    src, tgt = random_ids(2, src_length), random_ids(2, tgt_length)
    answer = f"a {side} sentence has 9 tokens, .* for 8 positions .model.max_length."
    with pytest.raises(DataError, match=answer):
        model(src, tgt)


def test_decoding_step_by_step_ends_at_the_last_position_with_the_same_answer() -> None:
    model = make_model(self_attention="dense_synthesizer")
    cache = model.start(model.encode(random_ids(2, 3)))
    for _ in range(MAX_LENGTH):
        _, cache = model.decode(random_ids(2, 1), cache)
    with pytest.raises(DataError, match=r"a target sentence has 9 tokens, .* for 8 positions"):
        model.decode(random_ids(2, 1), cache)


@pytest.mark.parametrize("kind", ["dot_product", "additive"])
def test_other_kinds_know_no_longest_sentence(kind: str) -> None:
    model = make_model(self_attention=kind)
    assert model.max_length is None
    assert states_of(model, random_ids(1, 300), random_ids(1, 300)).isfinite().all()


# Dropout

NO_DROPOUT = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "embedding_dropout": 0.0,
}


@pytest.mark.parametrize("rate", NO_DROPOUT)
def test_each_dropout_rate_acts_in_training_and_in_evaluation_none(rate: str) -> None:
    model = make_model(**{**NO_DROPOUT, rate: 0.5})
    plain = make_model(**NO_DROPOUT)
    src, tgt = random_ids(2, 5), random_ids(2, 4, seed=2)
    calm = states_of(plain, src, tgt)
    assert torch.equal(states_of(model, src, tgt), calm)
    assert_different(states_of(model.train(), src, tgt), calm)
    assert torch.equal(states_of(plain.train(), src, tgt), calm), (
        "without a rate, training is evaluation"
    )


def test_embeddings_are_dropped_at_the_general_rate_unless_they_have_one_of_their_own() -> None:
    assert make_model(dropout=0.3).dropout.p == 0.3
    assert make_model(dropout=0.3, embedding_dropout=0.0).dropout.p == 0.0


# The config's words


@pytest.mark.parametrize(
    ("key", "table"), [("activation", ACTIVATIONS), ("tie_embeddings", EMBEDDING_TYING)]
)
def test_every_word_that_a_config_may_use_is_known(key: str, table: dict[str, Any]) -> None:
    assert set(get_args(ModelConfig.model_fields[key].annotation)) == set(table)


TOO_FEW = "wanted data.max_length (64) or more for dense_synthesizer, found "


@pytest.mark.parametrize(
    ("override", "key", "problem"),
    [
        ("model.max_length=63", "model.max_length", TOO_FEW + "63"),
        ("model.max_length=null", "model.max_length", TOO_FEW + "null"),
        ("model.self_attention=additive", "model.max_length",
         "counts the positions of dense_synthesizer: wanted null with self_attention: additive, found 64"),
        ("model.cross_attention=dense_synthesizer", "model.cross_attention",
         "dense_synthesizer computes weights without the source: wanted dot_product or additive"),
    ],
)  # fmt: skip
def test_a_synthesizer_that_cannot_work_is_refused_when_the_config_is_read(
    override: str, key: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(CONFIGS / "toy-synthesizer.yaml", [override])
    assert str(caught.value).endswith(f": {problem}")
    assert key in str(caught.value)


@pytest.mark.parametrize(
    "overrides", [["model.max_length=64"], ["model.max_length=500"], ["data.max_length=10"]]
)
def test_a_synthesizer_with_positions_enough_is_accepted(overrides: list[str]) -> None:
    load_config(CONFIGS / "toy-synthesizer.yaml", overrides)
