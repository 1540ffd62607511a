"""What the gate lets through, and what it says to what it does not."""

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from endcap_pipelines import gate
from endcap_pipelines.gate import Measured
from endcap_pipelines.params import Gate

RULES = Gate(margin=0.02, tolerance=0.005)
DRAWS = random.Random(5)
LINEAGE = {"data": "d1", "held_out": "0.5"}
PLAIN = {f"q{i}": DRAWS.uniform(0.3, 0.9) for i in range(100)}


HELD_OUT = [f"q{i}" for i in range(50)]


def measured(version: int, queries: Mapping[str, float], **changes: object) -> Measured:
    figure = sum(queries.values()) / len(queries)
    added = {f"unseen_minus_{plain}_ndcg@10": (0.01, 0.05) for plain in ("dense", "rrf")}
    interval = {
        f"{name}_{end}": at for name, ends in added.items() for end, at in zip(("low", "high"), ends, strict=True)
    }
    offline = {"ndcg@10": figure, "unseen_ndcg@10": 0.6, **interval}
    told = {"ndcg@10": figure, "recall@100": 0.9}
    whole = Measured(version, queries, told, [version], 0, {"p50": 1.0, "p95": 2.0}, offline, LINEAGE)
    return replace(whole, **changes)


def moved(by: float, noise: float = 0.0) -> dict[str, float]:
    draws = random.Random(7)
    return {query: value + by + draws.gauss(0, noise) for query, value in PLAIN.items()}


STABLE = measured(1, PLAIN)


def refusals(candidate: Measured, stable: Measured | None = STABLE) -> str:
    return "\n".join(gate.decide(candidate, stable, HELD_OUT, RULES, 7).reasons)


@pytest.mark.parametrize("by", [0.0, 0.05, -0.01])
def test_what_is_no_worse_is_promoted(by: float) -> None:
    decision = gate.decide(measured(2, moved(by)), STABLE, HELD_OUT, RULES, 7)
    assert decision.promotes, decision.reasons
    assert decision.interval == pytest.approx((by, by))


def test_what_is_worse_is_refused_with_the_interval() -> None:
    assert "the difference is -0.1000 to -0.1000, and may not reach below -0.0200" in refusals(measured(2, moved(-0.1)))


def test_what_is_not_shown_to_be_no_worse_is_refused() -> None:
    # As good on average, but so uneven that a hundred queries cannot tell.
    assert "may not reach below" in refusals(measured(2, moved(0.0, noise=0.5)))


def test_only_queries_that_were_held_out_from_training_are_compared() -> None:
    heart = {query: value + (-0.1 if query in HELD_OUT else 0.3) for query, value in PLAIN.items()}
    assert "on 50 queries held out" in refusals(measured(2, heart))
    other = {query: value + (0.1 if query in HELD_OUT else -0.1) for query, value in PLAIN.items()}
    assert gate.decide(measured(2, other), STABLE, HELD_OUT, RULES, 7).promotes


def test_a_stable_version_that_was_trained_on_what_is_held_out_now_is_told() -> None:
    before = replace(STABLE, lineage={"data": "d1", "held_out": "0.2"})
    assert gate.decide(measured(2, PLAIN), STABLE, HELD_OUT, RULES, 7).notes == []
    for stable in [before, replace(STABLE, lineage={"data": "d1"})]:
        (note,) = gate.decide(measured(2, PLAIN), stable, HELD_OUT, RULES, 7).notes
        assert "stable was trained on some of the queries held out" in note


def test_degraded_answers_of_either_are_no_comparison() -> None:
    assert "3 answers were degraded" in refusals(measured(2, PLAIN, degraded=3))
    assert "stable: 1 answers were degraded" in refusals(measured(2, PLAIN), replace(STABLE, degraded=1))


def test_answers_of_another_version_are_no_comparison() -> None:
    assert "versions [1, 2] answered; expected 2 alone" in refusals(measured(2, PLAIN, answered=[1, 2]))


def test_a_figure_that_the_fleet_does_not_reproduce_is_refused() -> None:
    good = measured(2, PLAIN)
    assert "outside it 0.9" in refusals(replace(good, offline={**good.offline, "ndcg@10": 0.9}))


def test_a_ranker_that_harms_what_it_has_not_seen_is_refused_though_nothing_is_stable() -> None:
    good = measured(1, PLAIN)
    for plain, text in [("dense", "the order by vector"), ("rrf", "both lists fused")]:
        name = f"unseen_minus_{plain}_ndcg@10"
        harmful = {**good.offline, f"{name}_low": -0.3, f"{name}_high": -0.2}
        told = refusals(replace(good, offline=harmful), None)
        assert f"not trained on, it changes ndcg@10 of {text} by -0.3000 to -0.2000" in told
    assert gate.decide(good, None, HELD_OUT, RULES, 7).promotes


def test_learning_by_heart_is_refused_where_the_data_is_the_same() -> None:
    heart = measured(2, moved(0.1))
    heart = replace(heart, offline={**heart.offline, "unseen_ndcg@10": 0.5})
    assert "on queries it was not trained on, ndcg@10 is 0.5000, stable's is 0.6000" in refusals(heart)
    other = gate.decide(replace(heart, lineage=LINEAGE | {"data": "d2"}), STABLE, HELD_OUT, RULES, 7)
    assert other.promotes and "other data" in other.notes[0]


def test_other_queries_are_no_comparison() -> None:
    assert "different queries" in refusals(measured(2, {"q1": 0.5}))


def test_every_reason_is_told() -> None:
    assert len(refusals(measured(2, moved(-0.1), degraded=2)).splitlines()) == 2
