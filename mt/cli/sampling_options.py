"""Options of `mt translate` for sampling and minimum Bayes risk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mt.config.choices import MbrUtility

if TYPE_CHECKING:
    from mt.decoding.minimum_bayes_risk import MinimumBayesRisk
    from mt.decoding.sampling import SamplingOptions

DEFAULT_SEED = 1
# How --mbr draws samples. Freitag et al. (2023) recommend this epsilon. On Multi30k, this
# temperature gave better scores than 1 (docs/log.md).
MBR_EPSILON = 0.02
MBR_TEMPERATURE = 0.5

SampleOption = Annotated[
    bool, typer.Option("--sample", help="draw a translation from the model instead of searching")
]
MbrOption = Annotated[
    int | None,
    typer.Option(
        min=2,
        max=1000,
        metavar="N",
        help="draw N translations, print the one most like all others (minimum Bayes risk)",
    ),
]
UtilityOption = Annotated[
    MbrUtility | None,
    typer.Option(help="how --mbr measures likeness: chrF or BLEU of sentences  [default: chrf]"),
]
SeedOption = Annotated[
    int | None, typer.Option(min=0, help=f"of --sample and --mbr  [default: {DEFAULT_SEED}]")
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(
        help="of --sample and --mbr: below 1 prefers probable tokens  "
        f"[default: {MBR_TEMPERATURE} with --mbr, else 1]"
    ),
]
TopKOption = Annotated[
    int | None, typer.Option(min=1, help="of --sample and --mbr: only the K most probable tokens")
]
TopPOption = Annotated[
    float | None,
    typer.Option(help="of --sample and --mbr: only tokens that have this probability together"),
]
EpsilonOption = Annotated[
    float | None,
    typer.Option(
        help="of --sample and --mbr: only tokens with this probability  "
        f"[default: {MBR_EPSILON} with --mbr, else 0]"
    ),
]


def make_sampling(
    *,
    sample: bool,
    mbr: int | None,
    seed: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    epsilon: float | None,
) -> "SamplingOptions | None":
    """Return how translations are drawn; None: they are not.

    Raises typer.BadParameter for an impossible value, or for an option without `--sample` or
    `--mbr`.
    """
    from mt.decoding.sampling import SamplingOptions

    if not sample and mbr is None:
        options = {
            "--seed": seed,
            "--temperature": temperature,
            "--top-k": top_k,
            "--top-p": top_p,
            "--epsilon": epsilon,
        }
        for name, value in options.items():
            if value is not None:
                raise typer.BadParameter("needs --sample or --mbr", param_hint=name)
        return None
    if epsilon is None:
        epsilon = 0.0 if mbr is None else MBR_EPSILON
    if temperature is None:
        temperature = 1.0 if mbr is None else MBR_TEMPERATURE
    try:
        return SamplingOptions(
            seed=DEFAULT_SEED if seed is None else seed,
            temperature=temperature,
            top_k=top_k,
            top_p=1.0 if top_p is None else top_p,
            epsilon=epsilon,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def make_mbr(
    run_dir: Path, *, num_samples: int | None, utility: MbrUtility | None
) -> "MinimumBayesRisk | None":
    """Return the rule of minimum Bayes risk; None: there is none.

    Raises typer.BadParameter for `--utility` without `--mbr`.
    """
    if num_samples is None:
        if utility is not None:
            raise typer.BadParameter("needs --mbr", param_hint="--utility")
        return None
    from mt.decoding.minimum_bayes_risk import MinimumBayesRisk
    from mt.evaluation.utility import utility_of_run
    from mt.experiment import Experiment

    config = Experiment.open(run_dir).config
    return MinimumBayesRisk(num_samples, utility_of_run(utility or "chrf", config))
