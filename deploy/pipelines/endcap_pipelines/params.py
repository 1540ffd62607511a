"""`params.yaml`: everything a run is told, read strictly, so that a misspelt name is no silent default."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from endcap_pipelines.candidates import TRAINED
from endcap_pipelines.data import DataError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

BEST = "best"
Section = TypeVar("Section", bound="DataclassInstance")


@dataclass(frozen=True)
class Check:
    # A catalogue that has moved far from the last run's is an error; once it was looked at, say so here.
    accept_drift: bool = False


@dataclass(frozen=True)
class Prepare:
    # Of the encoder's training, where the data brings no encoder.
    steps: int = 1500
    # What is ranked, by which features: `fused` (words and vectors) or `dense` (the nearest by vector).
    candidates: str = "fused"
    # The share of the queries that nothing is trained on: candidate and stable are compared on them.
    held_out: float = 0.2


@dataclass(frozen=True)
class Train:
    # Of endcap_pipelines.recipes, or `best`: whichever of `linear` and `lightgbm` cross-validation prefers.
    recipe: str = BEST
    # Over the defaults of a recipe that is named.
    parameters: dict[str, int | float | str] = field(default_factory=dict)
    # Grades dealt out anew within each query: a model that must end refused.
    shuffle_labels: bool = False


@dataclass(frozen=True)
class Evaluate:
    folds: int = 5


@dataclass(frozen=True)
class Optimize:
    # What a smaller form may lose of ndcg@10.
    budget: float = 0.005
    models: list[str] = field(default_factory=lambda: ["ranker", "encoder"])


@dataclass(frozen=True)
class Bundle:
    shards: int = 4


@dataclass(frozen=True)
class Gate:
    # "No worse": the interval's lower end may be this much below stable.
    margin: float = 0.05
    # The same for what ranking adds to the orders that need no training.
    unseen_margin: float = 0.05
    # How far the figure through the fleet may be from the one computed outside it.
    tolerance: float = 0.005


@dataclass(frozen=True)
class Params:
    data: Path
    model: str = "search-ranker"
    seed: int = 7
    check: Check = Check()
    prepare: Prepare = Prepare()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    optimize: Optimize = Optimize()
    bundle: Bundle = Bundle()
    gate: Gate = Gate()


def read(path: Path, overrides: Sequence[str] = ()) -> Params:
    """`overrides`: `name.of.key=value`, the value in YAML. A relative `data` is seen from the file's folder.

    Raises DataError, which names every key that is unknown or of the wrong kind.
    """
    try:
        found = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds {type(found).__name__}; expected names with values")
    found.setdefault("data", "")
    for override in overrides:
        _override(found, override)
    faults: list[str] = []
    params = _section(Params, found, "", faults)
    faults = faults or _out_of_range(params)
    if faults:
        raise DataError(f"{path}: " + "; ".join(faults))
    return replace(params, data=(path.parent / params.data).resolve())


def _override(found: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals:
        raise DataError(f"--set {override!r}: expected name=value, such as train.recipe=lightgbm")
    *sections, key = name.split(".")
    for section in sections:
        found = found.setdefault(section, {})
        if not isinstance(found, dict):
            raise DataError(f"--set {override!r}: {section!r} has a value and no keys")
    found[key] = yaml.safe_load(value)


def _section(kind: type[Section], found: object, where: str, faults: list[str]) -> Section:
    if not isinstance(found, dict):
        faults.append(f"{where} is {found!r}; expected names with values")
        return kind()
    kinds = get_type_hints(kind)
    faults += [f"{where}{name} is unknown; expected one of {', '.join(kinds)}" for name in found if name not in kinds]
    values: dict[str, Any] = {}
    for each in fields(kind):
        if each.name not in found:
            continue
        value, name = found[each.name], f"{where}{each.name}"
        if is_dataclass(kinds[each.name]):
            values[each.name] = _section(kinds[each.name], value, f"{name}.", faults)
        else:
            values[each.name] = _value(kinds[each.name], value, name, faults)
    return kind(**values)


def _value(kind: type, value: Any, name: str, faults: list[str]) -> object:  # noqa: ANN401
    if kind is Path:
        return Path(str(value))
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and whole:
        return float(value)
    plain = get_origin(kind) or kind
    if not isinstance(value, plain) or (plain is int and not whole):
        faults.append(f"{name} is {value!r}; expected {plain.__name__}")
    elif isinstance(value, list) and not all(isinstance(one, get_args(kind)[0]) for one in value):
        faults.append(f"{name} is {value!r}; expected a list of {get_args(kind)[0].__name__}")
    return value


def _out_of_range(params: Params) -> list[str]:
    rules = [
        (str(params.data) not in {"", "."}, "data is missing; expected the data folder"),
        (params.prepare.steps >= 1, f"prepare.steps is {params.prepare.steps}; expected at least 1"),
        (
            params.prepare.candidates in TRAINED,
            f"prepare.candidates is {params.prepare.candidates!r}; expected one of {', '.join(TRAINED)}",
        ),
        (0 < params.prepare.held_out < 1, f"prepare.held_out is {params.prepare.held_out}; expected a share below 1"),
        (
            params.train.recipe != BEST or not params.train.parameters,
            f"train.parameters is {params.train.parameters}; expected none where no recipe is named",
        ),
        (params.evaluate.folds >= 2, f"evaluate.folds is {params.evaluate.folds}; expected at least 2"),
        (params.optimize.budget >= 0, f"optimize.budget is {params.optimize.budget}; expected 0 or more"),
        (
            set(params.optimize.models) <= {"ranker", "encoder"},
            f"optimize.models is {params.optimize.models}; expected ranker, encoder, both or none",
        ),
        (params.bundle.shards >= 1, f"bundle.shards is {params.bundle.shards}; expected at least 1"),
        (params.gate.margin >= 0, f"gate.margin is {params.gate.margin}; expected 0 or more"),
        (params.gate.unseen_margin >= 0, f"gate.unseen_margin is {params.gate.unseen_margin}; expected 0 or more"),
        (params.gate.tolerance >= 0, f"gate.tolerance is {params.gate.tolerance}; expected 0 or more"),
    ]
    return [fault for holds, fault in rules if not holds]
