"""Features, by the same definitions that workers compute. The golden requests hold both against each other."""

from dataclasses import dataclass, field

import numpy as np

from endcap_pipelines.data import Data
from endcap_pipelines.text import distinct, negated, tokens

OVERLAPS = {
    "overlap_name": "name",
    "overlap_all": "all",
    "overlap_class": "product_class",
    "overlap_hierarchy": "category_hierarchy",
    "overlap_brand": "brand",
    "overlap_color": "color",
}


@dataclass
class Features:
    """The ranker's input, column by column, for a query and some items."""

    data: Data
    personal: bool
    texts: dict[str, list[str]] = field(init=False)
    sets: dict[str, list[set[str]]] = field(init=False)
    items: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        columns = self.data.columns
        parts = ["brand", "name", "product_class", "color", "text"]
        joined = [" ".join(row) for row in zip(*(columns[part] for part in parts), strict=True)]
        self.texts = {**columns, "all": joined}
        self.sets = {column: [set(tokens(text)) for text in self.texts[column]] for column in OVERLAPS.values()}
        rating, reviews = self.data.numbers["rating"], np.nan_to_num(self.data.numbers["review_count"])
        self.items = {
            "rating": rating.astype(np.float32),
            "log_reviews": np.log1p(reviews).astype(np.float32),
            "name_len": (np.array([len(" ".join(tokens(n))) for n in columns["name"]]) / 100).astype(np.float32),
        }
        if self.personal:
            self.items["price_level"] = self._price_level()

    @property
    def names(self) -> list[str]:
        names = ["match.cosine", *(f"match.{name}" for name in OVERLAPS)]
        names += ["match.missing_tokens", "match.negated", "query.token_count"]
        names += [f"item.{name}" for name in self.items]
        return [*names, "user.price_affinity"] if self.personal else names

    @property
    def defaults(self) -> dict[str, float]:
        defaults = dict.fromkeys(self.names, 0.0)
        defaults["item.rating"] = float(np.float32(np.nanmedian(self.data.numbers["rating"])))
        return defaults

    def schema(self) -> dict[str, object]:
        compute: dict[str, dict[str, object]] = {
            f"match.{name}": {"kind": "token_overlap", "column": column} for name, column in OVERLAPS.items()
        }
        compute["match.cosine"] = {"kind": "vector_score"}
        compute["match.missing_tokens"] = {"kind": "missing_tokens", "columns": ["all"]}
        compute["match.negated"] = {"kind": "negated_overlap", "columns": ["all"]}
        compute["query.token_count"] = {"kind": "token_count"}
        specs = []
        for name in self.names:
            spec: dict[str, object] = {"name": name, "dtype": "f32", "default": [self.defaults[name]]}
            if name in compute:
                spec["compute"] = compute[name]
            if name.startswith("user."):
                spec["ttl_s"] = 30 * 24 * 3600
            specs.append(spec)
        return {"features": specs}

    def rows(self, query: str, similarities: np.ndarray, items: np.ndarray) -> np.ndarray:
        """[len(items), len(names)] f32; `similarities` are those of the same items."""
        wanted, unwanted = distinct(query), negated(query)
        columns = [similarities.astype(np.float32)]
        for column in OVERLAPS.values():
            sets = self.sets[column]
            columns.append(_counts([sum(token in sets[item] for token in wanted) for item in items]))
        everything = self.sets["all"]
        columns.append(_counts([sum(token not in everything[item] for token in wanted) for item in items]))
        columns.append(_counts([sum(token in everything[item] for token in unwanted) for item in items]))
        columns.append(np.full(len(items), len(tokens(query)), np.float32))
        for name, values in self.items.items():
            chosen = values[items]
            columns.append(np.where(np.isnan(chosen), np.float32(self.defaults[f"item.{name}"]), chosen))
        if self.personal:
            columns.append(np.zeros(len(items), np.float32))
        return np.stack(columns, axis=1).astype(np.float32)

    def _price_level(self) -> np.ndarray:
        """Where a price is in its class's range, -1 to 1; 0 without a price."""
        price, classes = self.data.numbers["price"], np.array(self.data.columns["product_class"])
        level = np.zeros(len(price))
        for name in np.unique(classes):
            mine = (classes == name) & ~np.isnan(price)
            logs = np.log(np.maximum(price[mine], 0.01))
            if mine.sum() > 1 and np.ptp(logs) > 0:
                level[mine] = 2 * (logs - logs.min()) / np.ptp(logs) - 1
        return level.astype(np.float32)


def _counts(values: list[int]) -> np.ndarray:
    return np.array(values, np.float32)
