"""Machine translation: train a translator from parallel text, and use it.

    from mt import Translator
    Translator.load("runs/toy").translate(["The old woman sees a small dog."])

The public names are imported on first use, so that `import mt` and `mt --help` do not wait for
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mt.config.load import load_config
    from mt.config.schema import Config
    from mt.decoding.attention import SentenceAttention
    from mt.decoding.minimum_bayes_risk import MinimumBayesRisk
    from mt.decoding.sampling import SamplingOptions
    from mt.decoding.scoring import PairScore
    from mt.decoding.translation import Translation
    from mt.decoding.translator import Translator
    from mt.errors import MtError
    from mt.evaluation.evaluate import evaluate
    from mt.evaluation.utility import ChrfUtility
    from mt.training.api import TrainingResult, train
    from mt.training.metrics_log import (
        FinalRecord,
        IncidentRecord,
        PlanRecord,
        StartRecord,
        TrainingEvent,
        TrainRecord,
        ValidationRecord,
    )

__version__ = "0.2.0.dev0"
__all__ = [
    "ChrfUtility",
    "Config",
    "FinalRecord",
    "IncidentRecord",
    "MinimumBayesRisk",
    "MtError",
    "PairScore",
    "PlanRecord",
    "SamplingOptions",
    "SentenceAttention",
    "StartRecord",
    "TrainRecord",
    "TrainingEvent",
    "TrainingResult",
    "Translation",
    "Translator",
    "ValidationRecord",
    "__version__",
    "evaluate",
    "load_config",
    "train",
]

_MODULES = {
    "ChrfUtility": "mt.evaluation.utility",
    "Config": "mt.config.schema",
    "FinalRecord": "mt.training.metrics_log",
    "IncidentRecord": "mt.training.metrics_log",
    "MinimumBayesRisk": "mt.decoding.minimum_bayes_risk",
    "MtError": "mt.errors",
    "PairScore": "mt.decoding.scoring",
    "PlanRecord": "mt.training.metrics_log",
    "SamplingOptions": "mt.decoding.sampling",
    "SentenceAttention": "mt.decoding.attention",
    "StartRecord": "mt.training.metrics_log",
    "TrainRecord": "mt.training.metrics_log",
    "TrainingEvent": "mt.training.metrics_log",
    "TrainingResult": "mt.training.api",
    "Translation": "mt.decoding.translation",
    "Translator": "mt.decoding.translator",
    "ValidationRecord": "mt.training.metrics_log",
    "evaluate": "mt.evaluation.evaluate",
    "load_config": "mt.config.load",
    "train": "mt.training.api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'mt' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
