"""What is ranked, and by which features: the nearest by vector, or the fused lists of words and vectors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from endcap_pipelines.lists import RRF_K

Compute = dict[str, Any] | None

ALL = ["brand", "name", "product_class", "color", "text"]
# What the given ranker was trained with for tokens that no name has.
UNKNOWN_IDF = 9.0
# Items of each list, and of what is ranked: two lists of 100 hold at most 200.
LISTED, DEPTH = 100, 200
SHARES = {
    "overlap_name": ["name"],
    "overlap_all": ALL,
    "overlap_class": ["product_class"],
    "overlap_hier": ["category_hierarchy"],
    "overlap_brand": ["brand"],
    "overlap_color": ["color"],
}
# What `fused` looks into besides the 22 features.
FIELDS = {
    "overlap_text": ["text"],
    "overlap_title": ["name", "brand", "color"],
    "overlap_kind": ["product_class", "category_hierarchy"],
    "overlap_any": [*ALL, "category_hierarchy"],
}
NEGATED: dict[str, Compute] = {"match.negated": {"kind": "negated_overlap", "columns": ALL}}
LEVEL, AFFINITY = "item.price_level", "user.price_affinity"
ITEM: dict[str, Compute] = {"item.name_len": None, "item.rating": None, "item.log_reviews": None}
PERSONAL: dict[str, Compute] = {LEVEL: None, AFFINITY: None}


@dataclass(frozen=True)
class Candidates:
    """The features by name, each with what workers compute it by; nothing for what items and shoppers bring."""

    features: dict[str, Compute]
    depth: int
    # How deep each of the fused lists is; 0 where the vectors' list is the only one.
    listed: int = 0

    @property
    def names(self) -> list[str]:
        return list(self.features)

    @property
    def personal(self) -> bool:
        return AFFINITY in self.features

    def retrieval(self) -> dict[str, object]:
        if not self.listed:
            return {"depth": self.depth}
        return {"mode": "fused", "depth": self.depth, "list_depth": self.listed, "lexical_columns": ALL}


def dense(personal: bool) -> Candidates:
    features: dict[str, Compute] = {
        "match.cosine": {"kind": "vector_score"},
        **_shares(SHARES),
        "match.missing_tokens": {"kind": "missing_tokens", "columns": ALL},
        **NEGATED,
        "query.query_len": {"kind": "token_count"},
        **ITEM,
    }
    return Candidates(features | (PERSONAL if personal else {}), DEPTH)


def fused(personal: bool) -> Candidates:
    """The 22 features, the share of the query's words that further fields have, and what the query does not want."""
    features = lambdamart_22().features | _shares(FIELDS) | NEGATED
    return Candidates(features | (PERSONAL if personal else {}), DEPTH, LISTED)


def lambdamart_22() -> Candidates:
    """The 22 features of a given `ranker.onnx`, in its order."""
    features: dict[str, Compute] = {
        "match.bm25_name_class": {"kind": "bm25", "columns": ["name", "product_class"]},
        "match.bm25_all": {"kind": "bm25", "columns": ALL},
        "match.bm25_name": {"kind": "bm25", "columns": ["name"]},
        "match.cosine": {"kind": "vector_score"},
        "match.rrf": {"kind": "reciprocal_rank_fusion", "k": RRF_K, "depth": LISTED},
        "match.rank_bm25_inv": {"kind": "reciprocal_rank", "list": "lexical", "depth": LISTED},
        "match.rank_dense_inv": {"kind": "reciprocal_rank", "list": "dense", "depth": LISTED},
        **_shares(SHARES),
        "match.idf_overlap_name": {"kind": "idf_share", "columns": ["name"], "unknown_idf": UNKNOWN_IDF},
        "match.bigram_name": {"kind": "bigram_share", "column": "name"},
        "match.missing_tokens": {"kind": "missing_tokens", "columns": ALL},
        "query.query_len": {"kind": "token_count"},
        **ITEM,
        "match.cos_minus_top": {"kind": "vector_below_top"},
        "match.bm25_over_top": {"kind": "lexical_over_top"},
    }
    return Candidates(features, DEPTH, LISTED)


def rrf() -> Candidates:
    """The fusion of the top 1,000 of each list, as it is."""
    features: dict[str, Compute] = {"match.rrf": {"kind": "reciprocal_rank_fusion", "k": RRF_K, "depth": 1000}}
    return Candidates(features, 1000, 1000)


# `prepare.candidates`: whether the data has shoppers to be personal to, in; what to rank, out.
TRAINED: dict[str, Callable[[bool], Candidates]] = {"fused": fused, "dense": dense}


def _shares(columns: dict[str, list[str]]) -> dict[str, Compute]:
    return {f"match.{name}": {"kind": "token_share", "columns": parts} for name, parts in columns.items()}
