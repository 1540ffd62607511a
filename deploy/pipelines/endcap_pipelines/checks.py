"""`python -m endcap_pipelines.checks --data FOLDER`: is this data fit to train on and to serve?

Schema, ranges, nulls, duplicates, references between files, leakage between folds, and drift against the last run.
Everything is looked at before anything is said; an error ends with 1, so that a pipeline stops here.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandera.polars as pandera
import polars as pl
from pandera.errors import SchemaErrors

from endcap_pipelines import drift
from endcap_pipelines.data import GAINS, DataError
from endcap_pipelines.text import tokens

# Judged products may have left the catalogue since; when many have, the files are not of one time.
UNKNOWN_WARNS, UNKNOWN_FAILS = 0.02, 0.2


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and what to do."""

    error: bool
    where: str
    what: str
    advice: str = ""

    def __str__(self) -> str:
        kind = "error" if self.error else "warning"
        return f"{kind:8} {self.where}: {self.what}" + (f"; {self.advice}" if self.advice else "")


def _text() -> pandera.Column:
    return pandera.Column(pl.String, nullable=True)


def _number(*checks: pandera.Check) -> pandera.Column:
    return pandera.Column(pl.Float64, list(checks), nullable=True)


def _key() -> pandera.Column:
    return pandera.Column(pl.String, pandera.Check.str_length(min_value=1, max_value=512))


SCHEMAS: Mapping[str, pandera.DataFrameSchema] = {
    "products": pandera.DataFrameSchema(
        {
            "product_id": _key(),
            "name": pandera.Column(pl.String, pandera.Check.str_length(min_value=1)),
            **{name: _text() for name in ["product_class", "category_hierarchy", "brand", "color", "text"]},
            "rating": _number(pandera.Check.in_range(0, 5)),
            "review_count": _number(pandera.Check.ge(0)),
            "price": _number(pandera.Check.ge(0)),
        },
        unique=["product_id"],
    ),
    "queries_open": pandera.DataFrameSchema(
        {"query_id": _key(), "query": pandera.Column(pl.String, pandera.Check.str_length(min_value=1, max_value=1024))},
        unique=["query_id"],
    ),
    "labels_open": pandera.DataFrameSchema(
        {
            "query_id": _key(),
            "product_id": _key(),
            "label": pandera.Column(pl.String, pandera.Check.isin(list(GAINS))),
        },
        unique=["query_id", "product_id"],
    ),
    "events": pandera.DataFrameSchema(
        {
            "shopper_id": _key(),
            "query": _text(),
            "product_id": _key(),
            "position": pandera.Column(pl.Int64, pandera.Check.ge(1)),
            "clicked": pandera.Column(pl.Boolean),
        }
    ),
    "shoppers": pandera.DataFrameSchema(
        {"shopper_id": _key(), "price_affinity": _number(pandera.Check.in_range(-1, 1))}, unique=["shopper_id"]
    ),
}
OPTIONAL = {"events", "shoppers"}


def check(folder: Path, against: Mapping[str, object] | None = None) -> tuple[list[Finding], dict[str, object]]:
    """Findings, errors first, and this data's profile. `against`: the profile of the last run."""
    findings: list[Finding] = []
    frames: dict[str, pl.DataFrame] = {}
    for name, schema in SCHEMAS.items():
        path = folder / f"{name}.parquet"
        if not path.is_file():
            if name not in OPTIONAL:
                findings.append(Finding(True, path.name, "is missing", "deploy/pipelines/README.md has the layout"))
            continue
        try:
            frame = pl.read_parquet(path)
        except Exception as error:  # whatever the reader makes of a broken file
            findings.append(Finding(True, path.name, f"cannot be read: {str(error).splitlines()[0]}"))
            continue
        broken = list(_schema(path.name, schema, frame))
        findings += broken
        if not any(finding.error for finding in broken):
            frames[name] = frame
    findings += _references(frames)
    findings += _leakage(frames)
    profile = drift.profile(frames["products"]) if "products" in frames else {}
    if against and "products" in frames:
        moved = drift.compare(against, frames["products"])
        advice = "if it is meant, run once with check.accept_drift"
        findings += [Finding(error, f"products.parquet/{column}", what, advice) for error, column, what in moved]
    return sorted(findings, key=lambda finding: not finding.error), profile


def _schema(file: str, schema: pandera.DataFrameSchema, frame: pl.DataFrame) -> Iterator[Finding]:
    if frame.is_empty():
        yield Finding(True, file, "has no rows")
        return
    for name, column in schema.columns.items():
        if name in frame.columns and frame[name].dtype != column.dtype.type:
            cast = frame[name].cast(column.dtype.type, strict=False)
            lost = frame[name].filter(cast.is_null() & frame[name].is_not_null())
            if len(lost):
                what = f"{len(lost)} of {len(frame)} values are not {column.dtype}, such as {lost[0]!r}"
                yield Finding(True, f"{file}/{name}", what)
            frame = frame.with_columns(cast.alias(name))
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        for (column, rule), rows in cases.group_by(["column", "check"], maintain_order=True):
            if rule == "column_in_dataframe":
                missing = rows["failure_case"][0]
                yield Finding(
                    True, f"{file}/{missing}", "the column is missing", f"there are {', '.join(frame.columns)}"
                )
            else:
                examples = ", ".join(repr(value) for value in rows["failure_case"].unique(maintain_order=True)[:3])
                where = f"{file}/{column}" if column in frame.columns else file
                yield Finding(True, where, f"{len(rows)} of {len(frame)} rows break {rule}, such as {examples}")


def _references(frames: Mapping[str, pl.DataFrame]) -> Iterator[Finding]:
    for name, column, target in [
        ("labels_open", "query_id", "queries_open"),
        ("labels_open", "product_id", "products"),
        ("events", "product_id", "products"),
        ("events", "shopper_id", "shoppers"),
    ]:
        if name not in frames or target not in frames:
            continue
        values = frames[name][column].cast(pl.String)
        unknown = values.filter(~values.is_in(frames[target][column].cast(pl.String).implode()))
        share = len(unknown) / len(values)
        if share > 0:
            what = f"{len(unknown)} of {len(values)} values are not in {target}.parquet, such as {unknown[0]!r}"
            where = f"{name}.parquet/{column}"
            yield Finding(share > UNKNOWN_FAILS, where, what, "" if share > UNKNOWN_WARNS else "they are left out")


def _leakage(frames: Mapping[str, pl.DataFrame]) -> Iterator[Finding]:
    """The same query under two ids must not stand in a training fold and in the fold that judges it."""
    if "queries_open" not in frames:
        return
    queries = frames["queries_open"]
    same = queries.with_columns(words=pl.Series([" ".join(sorted(tokens(query))) for query in queries["query"]]))
    groups = [rows for _, rows in same.group_by(["words"], maintain_order=True) if len(rows) > 1]
    if groups:
        ids = ", ".join(str(value) for value in groups[0]["query_id"][:5])
        what = f"{sum(map(len, groups))} of {len(queries)} queries are another's but for order and case"
        example = f"such as {groups[0]['query'][0]!r} (ids {ids})"
        yield Finding(False, "queries_open.parquet/query", f"{what}, {example}", "they are kept in one fold")
    if "labels_open" in frames:
        judged = frames["labels_open"]["query_id"].cast(pl.String).implode()
        bare = queries.filter(~pl.col("query_id").cast(pl.String).is_in(judged))
        if len(bare):
            what = f"{len(bare)} of {len(queries)} queries have no label, such as {bare['query'][0]!r}"
            yield Finding(False, "queries_open.parquet", what, "they teach nothing and count as 0 in every average")


class ChecksFailed(DataError):
    """The data is not fit. The message is the whole report."""


def pass_or_stop(folder: Path, against: Path | None, profile: Path | None) -> list[str]:
    """The report's lines; ChecksFailed on an error. `against`: the last run's profile, or nothing where there was none.
    `profile`: where this data's goes; only data that has passed is compared with later."""
    last = json.loads(against.read_text()) if against and against.is_file() else None
    findings, found = check(folder, last)
    errors = sum(finding.error for finding in findings)
    compared = "compared with the last run" if last else "no last run to compare with"
    lines = [str(finding) for finding in findings]
    lines.append(f"{folder}: {_count(errors, 'error')}, {_count(len(findings) - errors, 'warning')}; {compared}")
    if errors:
        raise ChecksFailed("\n".join(lines))
    if profile:
        profile.parent.mkdir(parents=True, exist_ok=True)
        profile.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--profile", type=Path, help="where to write this data's profile, for the next run")
    parser.add_argument("--against", type=Path, help="the profile of the last run; a missing file is no last run")
    arguments = parser.parse_args()
    try:
        print("\n".join(pass_or_stop(arguments.data, arguments.against, arguments.profile)))
    except ChecksFailed as report:
        print(report)
        sys.exit(1)


if __name__ == "__main__":
    main()
