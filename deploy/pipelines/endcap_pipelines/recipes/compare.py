"""`python -m endcap_pipelines.recipes.compare --data FOLDER`: recipes beside each other, on queries not trained on."""

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from endcap_pipelines import metrics
from endcap_pipelines.data import DataError
from endcap_pipelines.recipes import RECIPES, Examples, Fitted, crossval, recipe
from endcap_pipelines.recipes.crossval import CANDIDATES, Task
from endcap_pipelines.source import say


def answers(task: Task, name: str, folds: int, seed: int) -> list[list[str]]:
    def fit(examples: Examples) -> Fitted:
        return recipe(name).fit(examples, {}, seed)

    return crossval.held_out(task, fit, folds)


def table(task: Task, rankings: Mapping[str, Sequence[Sequence[str]]], seed: int) -> Iterator[str]:
    """A line for each, with 95 % intervals of what it adds to the orders that need no training."""
    references = {name: crossval.ndcg(task, order) for name, order in task.references.items()}
    yield f"{'recipe':18}{'ndcg@10':>9}{'recall@100':>12}" + "".join(f"{'  - ' + name:26}" for name in references)
    for name, order in {**task.references, **rankings}.items():
        mine = crossval.ndcg(task, order)
        summary = metrics.summary(order, task.data.gains, len(task.data.ids))
        line = f"{name:18}{mine.mean():9.4f}{summary['recall@100']:12.4f}"
        for reference in references.values():
            low, high = metrics.paired_interval(mine, reference, seed)
            line += f"  {(mine - reference).mean():+.4f} ({low:+.4f} to {high:+.4f})"
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--candidates", choices=CANDIDATES, default="fused", help="what is ranked, by which features")
    parser.add_argument("--recipe", choices=RECIPES, action="append", help="once for each; default: lightgbm, linear")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    try:
        task = crossval.task(arguments.data, arguments.candidates, arguments.seed)
        say(f"{len(task.pools)} queries, {len(task.names)} features")
        rankings = {}
        for name in arguments.recipe or ["lightgbm", "linear"]:
            say(f"{name}: {arguments.folds} folds")
            # Frameworks do not bear each other in one process.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                rankings[name] = alone.submit(answers, task, name, arguments.folds, arguments.seed).result()
        for line in table(task, rankings, arguments.seed):
            print(line)
    except (DataError, ImportError) as error:
        sys.exit(f"compare: {error}")


if __name__ == "__main__":
    main()
