"""Data that is not fit: each fault is named with its file, column and examples, and hides no other."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from endcap_pipelines import checks, drift

Frames = dict[str, pl.DataFrame]


def shop(items: int = 200) -> Frames:
    """A small catalogue with labels and clicks in which nothing is wrong."""
    ids = [f"p{i}" for i in range(items)]
    return {
        "products": pl.DataFrame(
            {
                "product_id": ids,
                "name": [f"kettle {i}" for i in range(items)],
                "product_class": ["Kettles" if i % 3 else "Pans" for i in range(items)],
                "category_hierarchy": ["Kitchen"] * items,
                "brand": [f"brand {i % 7}" for i in range(items)],
                "color": ["red" if i % 2 else "blue" for i in range(items)],
                "text": ["of steel"] * items,
                "rating": [None if i % 10 == 0 else 1 + i % 5 for i in range(items)],
                "review_count": [i for i in range(items)],
                "price": [None if i % 4 == 0 else 5.0 + i for i in range(items)],
            }
        ),
        "queries_open": pl.DataFrame({"query_id": [1, 2], "query": ["red kettle", "blue pan"]}),
        "labels_open": pl.DataFrame(
            {"query_id": [1, 1, 2], "product_id": ["p1", "p2", "p3"], "label": ["Exact", "Irrelevant", "Substitute"]}
        ),
        "events": pl.DataFrame(
            {
                "shopper_id": ["s1"],
                "query": ["red kettle"],
                "product_id": ["p1"],
                "position": [1],
                "clicked": [True],
            }
        ),
        "shoppers": pl.DataFrame({"shopper_id": ["s1"], "price_affinity": [0.5]}),
    }


def write(frames: Frames, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        frame.write_parquet(folder / f"{name}.parquet")
    return folder


def found(frames: Frames, folder: Path) -> list[str]:
    return [str(finding) for finding in checks.check(write(frames, folder))[0]]


def test_good_data_has_no_findings(tmp_path: Path) -> None:
    assert found(shop(), tmp_path) == []


def products(change: pl.Expr) -> Callable[[Frames], Frames]:
    return lambda frames: frames | {"products": frames["products"].with_columns(change)}


def replaced(name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Frames], Frames]:
    return lambda frames: frames | {name: change(frames[name])}


FIRST = pl.int_range(pl.len()) == 0
FAULTS = {
    "a price below zero": (
        products(pl.when(FIRST).then(-1.0).otherwise("price").alias("price")),
        "products.parquet/price: 1 of 200 rows break",
    ),
    "a rating of six": (
        products(pl.when(FIRST).then(6).otherwise("rating").alias("rating")),
        "products.parquet/rating: 1 of 200 rows break in_range",
    ),
    "a product without a name": (
        products(pl.when(FIRST).then(None).otherwise("name").alias("name")),
        "products.parquet/name: 1 of 200 rows break not_nullable",
    ),
    "a product twice": (
        replaced("products", lambda p: pl.concat([p, p.head(1)])),
        "rows break multiple_fields_uniqueness",
    ),
    "a column that is not there": (
        replaced("products", lambda p: p.drop("brand")),
        "products.parquet/brand: the column is missing; there are product_id, name",
    ),
    "prices that are words": (
        products(pl.lit("dear").alias("price")),
        "products.parquet/price: 200 of 200 values are not Float64, such as 'dear'",
    ),
    "no products": (replaced("products", lambda p: p.head(0)), "products.parquet: has no rows"),
    "a label that is none": (
        replaced("labels_open", lambda p: p.with_columns(pl.lit("Perfect").alias("label"))),
        "labels_open.parquet/label: 3 of 3 rows break isin",
    ),
    "a judgement twice": (
        replaced("labels_open", lambda p: pl.concat([p, p.head(1)])),
        "rows break multiple_fields_uniqueness",
    ),
    "labels of another catalogue": (
        replaced("labels_open", lambda p: p.with_columns(pl.lit("zzz").alias("product_id")).unique("query_id")),
        "labels_open.parquet/product_id: 2 of 2 values are not in products.parquet, such as 'zzz'",
    ),
    "a position of zero": (
        replaced("events", lambda p: p.with_columns(position=pl.Series([0]))),
        "events.parquet/position: 1 of 1 rows break",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_an_error_that_names_where_and_what(fault: str, tmp_path: Path) -> None:
    breaks, expected = FAULTS[fault]
    told = found(breaks(shop()), tmp_path)
    assert any(line.startswith("error") and expected in line for line in told), told


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    broken = shop()
    for fault in ["a price below zero", "a label that is none", "a position of zero"]:
        broken = FAULTS[fault][0](broken)
    assert len(found(broken, tmp_path)) == 3


def test_a_missing_or_torn_file_is_an_error(tmp_path: Path) -> None:
    frames = shop()
    del frames["labels_open"]
    folder = write(frames, tmp_path)
    (folder / "queries_open.parquet").write_bytes(b"PAR1 torn")
    told = [str(finding) for finding in checks.check(folder)[0]]
    assert any("labels_open.parquet: is missing" in line for line in told)
    assert any("queries_open.parquet: cannot be read" in line for line in told)


def test_queries_without_labels_are_a_warning(tmp_path: Path) -> None:
    frames = shop()
    frames["labels_open"] = frames["labels_open"].filter(pl.col("query_id") == 1)
    assert [line.split()[0] for line in found(frames, tmp_path)] == ["warning"]


def test_the_same_query_twice_is_a_warning_because_folds_keep_it_together(tmp_path: Path) -> None:
    frames = shop()
    frames["queries_open"] = frames["queries_open"].with_columns(query=pl.Series(["Red kettle", "kettle  RED"]))
    (line,) = found(frames, tmp_path)
    assert line.startswith("warning") and "2 of 2 queries" in line and "'Red kettle' (ids 1, 2)" in line


def test_the_same_catalogue_has_not_drifted(tmp_path: Path) -> None:
    frames = shop()
    _, profile = checks.check(write(frames, tmp_path))
    assert checks.check(tmp_path, json.loads(json.dumps(profile)))[0] == []


def test_prices_in_another_currency_are_another_population(tmp_path: Path) -> None:
    _, profile = checks.check(write(shop(), tmp_path / "then"))
    now = products((pl.col("price") * 100).alias("price"))(shop())
    told = [str(f) for f in checks.check(write(now, tmp_path / "now"), profile)[0]]
    assert len(told) == 1 and told[0].startswith("error") and "products.parquet/price: PSI" in told[0]


def test_half_a_catalogue_is_an_error(tmp_path: Path) -> None:
    _, profile = checks.check(write(shop(), tmp_path / "then"))
    told = [str(f) for f in checks.check(write(shop(80), tmp_path / "now"), profile)[0]]
    assert any(line.startswith("error") and "80 rows; 200 at the last run" in line for line in told)


def test_psi_equals_its_definition() -> None:
    # (0.5-0.25) ln 2 + (0.5-0.75) ln(2/3), by hand.
    assert drift.psi([0.25, 0.75], [0.5, 0.5]) == pytest.approx(0.25 * 0.693147 + 0.25 * 0.405465, abs=1e-6)
    assert drift.psi([0.5, 0.5], [0.5, 0.5]) == 0


def test_the_command_ends_with_one_on_an_error_and_keeps_no_profile(tmp_path: Path) -> None:
    folder = write(FAULTS["a price below zero"][0](shop()), tmp_path / "data")
    command = [sys.executable, "-m", "endcap_pipelines.checks", "--data", str(folder), "--profile", str(tmp_path / "p")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "1 error, 0 warnings" in ran.stdout
    assert not (tmp_path / "p").exists()
