"""`python -m endcap_pipelines.recipes.search --data FOLDER --recipe NAME`: a recipe's best parameters in a time budget.

Optuna's TPE proposes, from the recipe's own bounds. Cross-validation judges, with queries of the same words in one
fold. The recipe's defaults are tried first, so that the answer is never worse by this measure. The same seed proposes
the same trials in the same order: a larger budget only goes on. What was chosen by these folds looks a little better
on them than it is.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import optuna

from endcap_pipelines.data import DataError
from endcap_pipelines.recipes import RECIPES, Parameters, Recipe, crossval, recipe
from endcap_pipelines.recipes.crossval import CANDIDATES, Task
from endcap_pipelines.source import say


@dataclass(frozen=True)
class Budget:
    """Whichever is spent first; a trial that has begun is finished."""

    seconds: float
    trials: int


@dataclass(frozen=True)
class Best:
    parameters: Parameters
    ndcg: float
    defaults_ndcg: float
    trials: int


def search(trainer: Recipe, judge: Callable[[Parameters], float], budget: Budget, seed: int) -> Best:
    """The parameters that `judge` gives most to. Says each trial as it ends."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial({name: trainer.defaults[name] for name in trainer.space})
    started = monotonic()

    def progress(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        mark = "best" if study.best_trial.number == trial.number else ""
        say(f"{monotonic() - started:6.0f} s  trial {trial.number:3}  {trial.value:.4f}  {_line(trial.params)}  {mark}")

    study.optimize(
        lambda trial: judge(proposed(trainer, trial)), budget.trials, timeout=budget.seconds, callbacks=[progress]
    )
    return Best(study.best_params, study.best_value, study.trials[0].value, len(study.trials))


def proposed(trainer: Recipe, trial: optuna.Trial) -> dict[str, int | float | str]:
    """One value of each parameter within its bounds, by magnitude where these are far apart."""
    values: dict[str, int | float | str] = {}
    for name, bounds in trainer.space.items():
        low, high = bounds[0], bounds[-1]
        if isinstance(low, str) or isinstance(high, str):
            values[name] = trial.suggest_categorical(name, list(bounds))
        elif isinstance(low, int) and isinstance(high, int):
            values[name] = trial.suggest_int(name, low, high, log=high >= 10 * low > 0)
        else:
            values[name] = trial.suggest_float(name, low, high, log=high >= 10 * low > 0)
    return values


def judge_by_folds(task: Task, trainer: Recipe, folds: int, seed: int) -> Callable[[Parameters], float]:
    """Mean NDCG@10 of queries not trained on."""

    def judge(parameters: Parameters) -> float:
        rankings = crossval.held_out(task, lambda examples: trainer.fit(examples, parameters, seed), folds)
        return float(crossval.ndcg(task, rankings).mean())

    return judge


def _line(parameters: Parameters) -> str:
    return " ".join(f"{n}={v:.4g}" if isinstance(v, float) else f"{n}={v}" for n, v in parameters.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--recipe", choices=RECIPES, required=True)
    parser.add_argument("--candidates", choices=CANDIDATES, default="fused", help="what is ranked, by which features")
    parser.add_argument("--minutes", type=float, default=5.0, help="the time budget")
    parser.add_argument("--trials", type=int, default=100, help="at most so many trials")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    try:
        task = crossval.task(arguments.data, arguments.candidates, arguments.seed)
        trainer = recipe(arguments.recipe)
        judge = judge_by_folds(task, trainer, arguments.folds, arguments.seed)
        best = search(trainer, judge, Budget(60 * arguments.minutes, arguments.trials), arguments.seed)
    except (DataError, ImportError) as error:
        sys.exit(f"search: {error}")
    say(f"{best.trials} trials: ndcg@10 {best.ndcg:.4f}, with the defaults {best.defaults_ndcg:.4f}")
    print(json.dumps(dict(best.parameters)))


if __name__ == "__main__":
    main()
