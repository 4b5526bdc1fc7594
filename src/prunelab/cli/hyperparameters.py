"""Optuna's search for the settings of a method, by the accuracy on validation images after recovery."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobReturn

from prunelab.cli.summary import Job
from prunelab.errors import UserError, nearest

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]

WORTH_OF_A_FAILURE = 0.0
"""The value of a failed trial. Optuna's sampler ignores trials without a value and would propose similar ones again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchSettings:
    """The keys of conf/hydra/sweeper/optuna.yaml, which describes them.

    Raises:
        UserError: a number out of range.
    """

    trials: int = 20
    parallel: int = 1
    seed: int = 0
    params: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> SearchSettings:
        """The settings in a mapping. Raises UserError if one is unknown."""
        known = [each.name for each in fields(cls)]
        if unknown := [key for key in settings if key not in known]:
            raise UserError(f"There is no key hydra.sweeper.{unknown[0]}. {nearest(unknown[0], known)}")
        return cls(**settings)

    def __post_init__(self) -> None:
        for key, least in (("trials", 1), ("parallel", 1), ("seed", 0)):
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(
                    f"hydra.sweeper.{key} must be a whole number, at least {least}, not {value!r}."
                )

    @property
    def words(self) -> list[str]:
        """``params`` in the form of the command line."""
        return [f"{key}={value}" for key, value in (self.params or {}).items()]


def search(words: Sequence[Override], settings: SearchSettings, launch: Launch) -> list[JobReturn]:
    """All trials, run by ``launch(command lines, number of the first)``, ``settings.parallel`` at a time.

    No state is stored between two starts: the same seed and the same results give the same proposals, and finished runs
    are not repeated. Therefore an interrupted search continues, and a longer search continues a shorter one.

    Raises:
        UserError: Optuna is not installed, or no setting has a range.
    """
    _require_optuna()
    space, fixed = _divided(words)
    study = _study(settings.seed)
    returns: list[JobReturn] = []
    runs: list[tuple[str, Job]] = []
    while len(returns) < settings.trials:
        number = min(settings.parallel, settings.trials - len(returns))
        trials = [study.ask(space) for _ in range(number)]
        proposed = [[f"{key}={value}" for key, value in trial.params.items()] for trial in trials]
        launched = launch([[*fixed, *each] for each in proposed], len(returns))
        for trial, each, returned in zip(trials, proposed, launched, strict=True):
            job: Job = returned.return_value
            study.tell(trial, validation_top1(job) or WORTH_OF_A_FAILURE)
            runs.append((" ".join(each), job))
        returns.extend(launched)
    _announce(runs)
    return returns


def validation_top1(job: Job) -> float | None:
    """The accuracy on validation images, which the search maximises; None for a failed run. Test images are not used.

    Raises:
        UserError: the record was made by a version that did not measure it.
    """
    if job.record is None:
        return None
    if job.record.validation is None:
        raise UserError(
            f"The record in {job.folder} contains no accuracy on validation images, because an older version wrote it. "
            "Use another study: study=NAME."
        )
    return job.record.validation.top1


def _divided(words: Sequence[Override]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """(ranges of the search, words that all trials share); of two words for one key the last one is used."""
    last = {word.get_key_element(): word for word in words}
    space = {key: _distribution(word) for key, word in last.items() if word.is_sweep_override()}
    if not space:
        raise UserError(
            "hydra/sweeper=optuna: no setting has a range. Give a range, such as "
            "'method.strength=tag(log,interval(1e-5,1e-2))', or choices, such as method.criterion.reduction=mean,max."
        )
    fixed = [
        f"{key}={word.get_value_element_as_str()}"
        for key, word in last.items()
        if not word.is_sweep_override()
    ]
    return space, fixed


def _distribution(word: Override) -> BaseDistribution:
    """The range of values in a word of the command line."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = word.value()
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None and sweep.end is not None
        is_log = "log" in sweep.tags
        if isinstance(sweep.start, int) and isinstance(sweep.end, int):
            return IntDistribution(sweep.start, sweep.end, log=is_log)
        return FloatDistribution(sweep.start, sweep.end, log=is_log)
    if isinstance(sweep, RangeSweep):
        steps = list(sweep.range())
        if all(isinstance(step, int) for step in steps):
            return IntDistribution(int(steps[0]), int(steps[-1]), step=int(sweep.step))
    return CategoricalDistribution(list(word.sweep_string_iterator()))


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError("hydra/sweeper=optuna needs Optuna: pip install 'prunelab[optuna]'") from error


def _study(seed: int) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))


def _announce(runs: Sequence[tuple[str, Job]]) -> None:
    """Log the best trial; of equal ones the first."""
    scored = [(value, words, job) for words, job in runs if (value := validation_top1(job)) is not None]
    if scored:
        value, words, job = max(scored, key=lambda each: each[0])
        log.info(
            "Best of %d trials: %s, %.2f %% on validation images, %s",
            len(runs),
            words,
            100 * value,
            job.folder,
        )
