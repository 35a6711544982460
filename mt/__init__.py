"""Machine translation: train a translator from two files of parallel text, and use it.

    from mt import Translator
    Translator.load("runs/toy").translate(["The old woman sees a small dog."])

The public names are imported on first use, so that `import mt` and `mt --help` do not wait for
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mt.config.load import load_config
    from mt.decoding.translator import Translator
    from mt.errors import MtError
    from mt.evaluation.evaluate import evaluate
    from mt.training.run import train

__version__ = "0.2.0.dev0"
__all__ = ["MtError", "Translator", "__version__", "evaluate", "load_config", "train"]

_MODULES = {
    "MtError": "mt.errors",
    "Translator": "mt.decoding.translator",
    "evaluate": "mt.evaluation.evaluate",
    "load_config": "mt.config.load",
    "train": "mt.training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'mt' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
