"""How far a catalogue has moved from an earlier one: the population stability index (PSI), column by column.

PSI = sum over bins of (now - then) * ln(now / then), bins being the earlier run's deciles (numbers) or its most
frequent values (texts). By the usual reading (Siddiqi, Credit Risk Scorecards, 2006) above 0.1 is a shift worth a
look, above 0.25 another population.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

WARNS, FAILS = 0.1, 0.25
# A bin that nobody is in must not make the index infinite.
FLOOR = 1e-4
NUMBERS = ["rating", "review_count", "price"]
TEXTS = ["product_class", "brand", "color"]
FREQUENT = 30
SIZE_WARNS, SIZE_FAILS = 0.2, 0.5


def profile(products: pl.DataFrame) -> dict[str, object]:
    """What the next run compares with: rows, bins and shares per column; JSON."""
    columns: dict[str, object] = {}
    for name in NUMBERS:
        values = products[name].cast(pl.Float64).drop_nulls().to_numpy()
        edges = np.unique(np.quantile(values, np.linspace(0, 1, 11)[1:-1])).tolist() if len(values) else []
        columns[name] = {"edges": edges, "shares": _number_shares(products[name], edges)}
    for name in TEXTS:
        counted = products[name].fill_null("").value_counts(sort=True).sort(["count", name], descending=[True, False])
        frequent = counted[name].head(FREQUENT).to_list()
        columns[name] = {"values": frequent, "shares": _text_shares(products[name], frequent)}
    return {"rows": len(products), "columns": columns}


def compare(then: Mapping[str, Any], products: pl.DataFrame) -> Iterator[tuple[bool, str, str]]:
    """(whether it is an error, column, what was found), for every column that moved."""
    before, now = int(then["rows"]), len(products)
    change = now / before - 1
    if abs(change) > SIZE_WARNS:
        yield abs(change) > SIZE_FAILS, "rows", f"{now} rows; {before} at the last run"
    for name, was in then["columns"].items():
        if name in NUMBERS:
            shares = _number_shares(products[name], was["edges"])
        else:
            shares = _text_shares(products[name], was["values"])
        index = psi(was["shares"], shares)
        if index > WARNS:
            yield (
                index > FAILS,
                name,
                f"PSI {index:.2f} since the last run; {WARNS} is a shift, {FAILS} another population",
            )


def psi(then: list[float], now: list[float]) -> float:
    a, b = (np.maximum(np.asarray(shares), FLOOR) for shares in (then, now))
    return float(((b - a) * np.log(b / a)).sum())


def _number_shares(column: pl.Series, edges: list[float]) -> list[float]:
    """Share of each bin; the last one is the share of rows without a value."""
    values = column.cast(pl.Float64)
    present = values.drop_nulls().to_numpy()
    counts = np.bincount(np.searchsorted(edges, present, side="left"), minlength=len(edges) + 1)
    return [*(counts / len(values)).tolist(), values.null_count() / len(values)]


def _text_shares(column: pl.Series, frequent: list[str]) -> list[float]:
    """Share of each frequent value; the last one is that of all others."""
    values = column.fill_null("")
    counts = dict(zip(*values.value_counts().get_columns(), strict=True))
    shares = [counts.get(value, 0) / len(values) for value in frequent]
    return [*shares, max(0.0, 1 - sum(shares))]
