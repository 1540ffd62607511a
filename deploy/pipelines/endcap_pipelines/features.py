"""A query's candidates and their features, by the same definitions that workers compute. The golden requests hold both
against each other."""

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from endcap_pipelines.candidates import ALL, Candidates
from endcap_pipelines.data import Data
from endcap_pipelines.encoder import Encoder
from endcap_pipelines.lists import RRF_K, Bm25, Lists, reciprocal
from endcap_pipelines.text import distinct, negated, tokens


class Features:
    """The ranker's input, column by column, for a query and some items. Items are rows of the catalogue."""

    def __init__(self, data: Data, candidates: Candidates) -> None:
        self.data, self.candidates, self.names = data, candidates, candidates.names
        self.by_id = np.argsort(np.argsort(np.array(data.ids, dtype=object)))
        # Each set of columns is read once, whatever asks for it.
        self.bm25, self.sets = cache(self._bm25), cache(self._sets)
        self.tokenised = [" ".join(tokens(name)) for name in data.columns["name"]]
        items = {
            "name_len": np.array([len(name) for name in self.tokenised]) / 100,
            "rating": data.numbers["rating"],
            "log_reviews": np.log1p(np.nan_to_num(data.numbers["review_count"])),
            "price_level": self._price_level(),
        }
        # The numbers that items bring, by column.
        self.items = {name: each.astype(np.float32) for name, each in items.items() if f"item.{name}" in self.names}
        self.defaults = dict.fromkeys(self.names, 0.0)
        if "rating" in self.items:
            self.defaults["item.rating"] = float(np.float32(np.nanmedian(data.numbers["rating"])))

    def schema(self) -> dict[str, object]:
        specs = []
        for name, compute in self.candidates.features.items():
            spec: dict[str, object] = {"name": name, "dtype": "f32", "default": [self.defaults[name]]}
            if compute:
                spec["compute"] = compute
            if name.startswith("user."):
                spec["ttl_s"] = 30 * 24 * 3600
            specs.append(spec)
        return {"features": specs}

    def lists(self, query: str, encoder: Encoder) -> Lists:
        """Where every item stands for a query."""
        cosine = np.asarray(encoder.items, np.float32) @ encoder.encode(query)
        listed = self.candidates.listed
        lexical = self.bm25(*ALL).scores(query) if listed else np.zeros_like(cosine)
        return Lists.of(cosine, lexical, self.by_id, listed or self.candidates.depth)

    def retrieved(self, lists: Lists) -> np.ndarray:
        """What is ranked, in the order in which it was found."""
        return lists.fused(self.by_id)[: self.candidates.depth]

    def rows(self, query: str, lists: Lists, items: np.ndarray) -> np.ndarray:
        """[len(items), features] f32."""
        columns = []
        for name, compute in self.candidates.features.items():
            if compute:
                column = self._computed(compute, query, lists, items)
            elif name.startswith("item."):
                chosen = self.items[name.removeprefix("item.")][items]
                column = np.where(np.isnan(chosen), self.defaults[name], chosen)
            else:
                column = np.full(len(items), self.defaults[name])
            columns.append(np.asarray(column, np.float32))
        return np.stack(columns, axis=1)

    def _computed(
        self, compute: dict[str, Any], query: str, lists: Lists, items: np.ndarray
    ) -> np.ndarray | list[float]:
        wanted, words = distinct(query), tokens(query)
        dense, lexical = (ranks[items] for ranks in lists.ranks())
        match compute:
            case {"kind": "token_count"}:
                return np.full(len(items), len(words))
            case {"kind": "vector_score"}:
                return lists.cosine[items]
            case {"kind": "vector_below_top"}:
                return lists.cosine[items] - np.float32(lists.tops()[0])
            case {"kind": "lexical_over_top"}:
                return lists.bm25[items] / np.float32(lists.tops()[1] or np.inf)
            case {"kind": "reciprocal_rank_fusion"}:
                return RRF_K * (reciprocal(dense) + reciprocal(lexical))
            case {"kind": "reciprocal_rank", "list": which}:
                return reciprocal(dense if which == "dense" else lexical, 0)
            case {"kind": "bm25", "columns": columns}:
                return self.bm25(*columns).scores(query)[items]
            case {"kind": "idf_share", "columns": columns, "unknown_idf": unknown}:
                bm25, sets = self.bm25(*columns), self.sets(*columns)
                idf = {t: bm25.idf(t) if t in bm25.postings else unknown for t in wanted}
                whole = max(sum(idf.values()), 1e-9)
                return [sum(idf[t] for t in wanted if t in sets[i]) / whole for i in items]
            case {"kind": "bigram_share"}:
                pairs = [f"{one} {two}" for one, two in pairwise(words)]
                return [sum(p in self.tokenised[i] for p in pairs) / max(len(pairs), 1) for i in items]
            case {"kind": "token_share", "columns": columns}:
                return self._found(wanted, columns, items) / max(len(wanted), 1)
            case {"kind": "missing_tokens", "columns": columns}:
                return len(wanted) - self._found(wanted, columns, items)
            case {"kind": "negated_overlap", "columns": columns}:
                return self._found(negated(query), columns, items)
        raise ValueError(f"{compute} is computed nowhere in the pipelines")

    def _found(self, words: list[str], columns: list[str], items: np.ndarray) -> np.ndarray:
        """How many of the words each item has."""
        sets = self.sets(*columns)
        return np.array([sum(word in sets[item] for word in words) for item in items], dtype=np.float64)

    def _texts(self, columns: tuple[str, ...]) -> list[str]:
        return [" ".join(row) for row in zip(*(self.data.columns[column] for column in columns), strict=True)]

    def _bm25(self, *columns: str) -> Bm25:
        return Bm25(self._texts(columns))

    def _sets(self, *columns: str) -> list[set[str]]:
        return [set(tokens(text)) for text in self._texts(columns)]

    def _price_level(self) -> np.ndarray:
        """Where a price is in its class's range, -1 to 1; 0 without a price."""
        price, classes = self.data.numbers["price"], np.array(self.data.columns["product_class"])
        level = np.zeros(len(price))
        for name in np.unique(classes):
            mine = (classes == name) & ~np.isnan(price)
            logs = np.log(np.maximum(price[mine], 0.01))
            if mine.sum() > 1 and np.ptp(logs) > 0:
                level[mine] = 2 * (logs - logs.min()) / np.ptp(logs) - 1
        return level
