"""The tokens of a tokenizer by their names in other programs."""

from mt.data.tokenizer import Tokenizer

# The names of ids 0 to 3 in CTranslate2 and Transformers. They are not those in the tokenizer.
SPECIAL_TOKENS = ["<pad>", "<unk>", "<s>", "</s>"]


def vocabulary(tokenizer: Tokenizer) -> list[str]:
    """Return the name of each token, in order of ids."""
    other_ids = range(len(SPECIAL_TOKENS), tokenizer.vocab_size)
    return SPECIAL_TOKENS + [tokenizer.piece(token_id) for token_id in other_ids]
