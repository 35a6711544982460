"""mt turns two files of parallel text into a translator.

    from mt import Translator
    Translator.load("runs/toy").translate(["The old woman sees a small dog."])

The names below are imported when first used, so that `import mt` and `mt --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mt.commands.evaluate import evaluate
    from mt.commands.train import train
    from mt.config import load_config
    from mt.decoding.translator import Translator

__all__ = ["Translator", "evaluate", "load_config", "train"]

_HOMES = {"Translator": "decoding.translator", "evaluate": "commands.evaluate"}
_HOMES |= {"load_config": "config", "train": "commands.train"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mt' has no attribute {name!r}")
    return getattr(import_module(f"mt.{_HOMES[name]}"), name)
