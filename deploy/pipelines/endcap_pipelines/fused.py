"""What ranks the fused lists of words and vectors: a given LambdaMART, one trained here, or the fusion itself."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from endcap_pipelines.data import GRADES, Data, DataError
from endcap_pipelines.encoder import Encoder, of_items
from endcap_pipelines.lists import RRF_K, Bm25, Lists, reciprocal
from endcap_pipelines.pools import Pool
from endcap_pipelines.text import distinct, tokens

ALL = ["brand", "name", "product_class", "color", "text"]
# What the given ranker was trained with for tokens that no name has.
UNKNOWN_IDF = 9.0
# Items of each list, and of the pool: two lists of 100 hold at most 200.
LISTED, POOL = 100, 200
SHARES = {
    "overlap_name": ["name"],
    "overlap_all": ALL,
    "overlap_class": ["product_class"],
    "overlap_hier": ["category_hierarchy"],
    "overlap_brand": ["brand"],
    "overlap_color": ["color"],
}
# What `fielded` looks into besides.
FIELDS = {
    "overlap_text": ["text"],
    "overlap_title": ["name", "brand", "color"],
    "overlap_kind": ["product_class", "category_hierarchy"],
    "overlap_any": [*ALL, "category_hierarchy"],
}


@dataclass
class Recipe:
    """A ranker over fused lists: its features, and how deep the lists are."""

    features: dict[str, dict[str, object] | None]
    list_depth: int
    depth: int
    # What trains it on the labels (endcap_pipelines.recipes); nothing if it is not trained here.
    trainer: str = ""

    @property
    def names(self) -> list[str]:
        return list(self.features)

    def retrieval(self) -> dict[str, object]:
        return {"mode": "fused", "depth": self.depth, "list_depth": self.list_depth, "lexical_columns": ALL}


def lambdamart_22() -> Recipe:
    """The 22 features of `ranker.onnx`, in its order."""
    shares = {f"match.{name}": {"kind": "token_share", "columns": columns} for name, columns in SHARES.items()}
    features = {
        "match.bm25_name_class": {"kind": "bm25", "columns": ["name", "product_class"]},
        "match.bm25_all": {"kind": "bm25", "columns": ALL},
        "match.bm25_name": {"kind": "bm25", "columns": ["name"]},
        "match.cosine": {"kind": "vector_score"},
        "match.rrf": {"kind": "reciprocal_rank_fusion", "k": RRF_K, "depth": LISTED},
        "match.rank_bm25_inv": {"kind": "reciprocal_rank", "list": "lexical", "depth": LISTED},
        "match.rank_dense_inv": {"kind": "reciprocal_rank", "list": "dense", "depth": LISTED},
        **shares,
        "match.idf_overlap_name": {"kind": "idf_share", "columns": ["name"], "unknown_idf": UNKNOWN_IDF},
        "match.bigram_name": {"kind": "bigram_share", "column": "name"},
        "match.missing_tokens": {"kind": "missing_tokens", "columns": ALL},
        "query.query_len": {"kind": "token_count"},
        "item.name_len": None,
        "item.rating": None,
        "item.log_reviews": None,
        "match.cos_minus_top": {"kind": "vector_below_top"},
        "match.bm25_over_top": {"kind": "lexical_over_top"},
    }
    return Recipe(features, LISTED, POOL)


def fielded() -> Recipe:
    """The 22 features, and the share of the query's words that further fields have. Trained here."""
    shares = {f"match.{name}": {"kind": "token_share", "columns": columns} for name, columns in FIELDS.items()}
    return Recipe({**lambdamart_22().features, **shares}, LISTED, POOL, trainer="linear")


def rrf() -> Recipe:
    """The fusion of the top 1,000 of each list, as it is."""
    features = {"match.rrf": {"kind": "reciprocal_rank_fusion", "k": RRF_K, "depth": 1000}}
    return Recipe(features, 1000, 1000)


def write_ranker(recipe: Recipe, folder: Path, out: Path) -> None:
    if recipe.depth == POOL:
        given = folder / "ranker.onnx"
        if not given.is_file():
            raise DataError(f"{given} is missing; --ranker lambdamart-22 packs that file")
        shutil.copyfile(given, out / "ranker.onnx")
        return
    shape = ["rows", 1]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["features"], ["score"])],
        "ranker",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, out / "ranker.onnx")


def exact_vectors(data: Data, encoder: Encoder) -> np.ndarray:
    """The items' vectors as f32: a tree's threshold can lie between a cosine and the same one rounded to f16."""
    texts = [f"{n}. {c}" if c else n for n, c in zip(data.columns["name"], data.columns["product_class"], strict=True)]
    encoder = of_items(data, encoder)
    return np.stack([encoder.encode(text) for text in texts]).astype(np.float32)


class FusedFeatures:
    """The features of a recipe for a query, by the same definitions that workers compute."""

    def __init__(self, data: Data, encoder: Encoder, recipe: Recipe) -> None:
        columns = data.columns
        self.recipe, self.encoder = recipe, encoder
        self.vectors = encoder.items.astype(np.float32)
        self.by_id = np.argsort(np.argsort(np.array(data.ids, dtype=object)))
        texts = {name: _joined(data, parts) for name, parts in [("all", ALL), ("nc", ["name", "product_class"])]}
        self.all, self.name_class, self.name = Bm25(texts["all"]), Bm25(texts["nc"]), Bm25(columns["name"])
        joined = {name: _joined(data, parts) for name, parts in {**SHARES, **FIELDS}.items()}
        self.sets = {name: [set(tokens(text)) for text in texts] for name, texts in joined.items()}
        self.names = [" ".join(tokens(text)) for text in columns["name"]]
        reviews = np.nan_to_num(data.numbers["review_count"])
        self.items = {
            "name_len": (np.array([len(name) for name in self.names]) / 100).astype(np.float32),
            "rating": data.numbers["rating"].astype(np.float32),
            "log_reviews": np.log1p(reviews).astype(np.float32),
        }
        self.defaults = dict.fromkeys(recipe.names, 0.0)
        if "item.rating" in self.defaults:
            self.defaults["item.rating"] = float(np.float32(np.nanmedian(data.numbers["rating"])))

    def schema(self) -> dict[str, object]:
        specs = []
        for name, compute in self.recipe.features.items():
            spec: dict[str, object] = {"name": name, "dtype": "f32", "default": [self.defaults[name]]}
            specs.append(spec | ({"compute": compute} if compute else {}))
        return {"features": specs}

    def lists(self, query: str) -> Lists:
        cosine = self.vectors @ self.encoder.encode(query)
        return Lists.of(cosine, self.all.scores(query), self.by_id, self.recipe.list_depth)

    def pool(self, lists: Lists) -> np.ndarray:
        return lists.fused(self.by_id)[: self.recipe.depth]

    def training_pool(self, data: Data, i: int) -> Pool:
        """A labelled query's pool, for training with the judged items beside it."""
        query = data.queries[i]
        lists = self.lists(query)
        retrieved = self.pool(lists)
        index = {item: row for row, item in enumerate(data.ids)}
        judged = {index[item]: GRADES[label] for item, label in data.labels[i].items()}
        training = np.array(sorted({*retrieved.tolist(), *judged}), dtype=np.int64)
        return Pool(
            retrieved=retrieved,
            rows=self.rows(query, lists, retrieved),
            training=training,
            training_rows=self.rows(query, lists, training),
            grades=np.array([judged.get(item, 0) for item in training]),
        )

    def rows(self, query: str, lists: Lists, items: np.ndarray) -> np.ndarray:
        """[len(items), features] f32."""
        dense, lexical = (ranks[items] for ranks in lists.ranks())
        fused = RRF_K * (reciprocal(dense) + reciprocal(lexical))
        if self.recipe.names == ["match.rrf"]:
            return fused.astype(np.float32)[:, None]
        wanted, words = distinct(query), tokens(query)
        idf = {t: self.name.idf(t) if t in self.name.postings else UNKNOWN_IDF for t in wanted}
        pairs = [f"{one} {two}" for one, two in zip(words, words[1:], strict=False)]
        names = self.sets["overlap_name"]
        tops = lists.standing(items[:0])
        values = {
            "match.bm25_name_class": self.name_class.scores(query)[items],
            "match.bm25_all": lists.bm25[items],
            "match.bm25_name": self.name.scores(query)[items],
            "match.cosine": lists.cosine[items],
            "match.rrf": fused,
            "match.rank_bm25_inv": reciprocal(lexical, 0),
            "match.rank_dense_inv": reciprocal(dense, 0),
            "match.idf_overlap_name": [
                sum(idf[t] for t in wanted if t in names[i]) / max(sum(idf.values()), 1e-9) for i in items
            ],
            "match.bigram_name": [sum(p in self.names[i] for p in pairs) / max(len(pairs), 1) for i in items],
            "match.missing_tokens": [sum(t not in self.sets["overlap_all"][i] for t in wanted) for i in items],
            "query.query_len": np.full(len(items), len(words)),
            "match.cos_minus_top": lists.cosine[items] - np.float32(tops["dense_top"]),
            "match.bm25_over_top": lists.bm25[items] / np.float32(tops["lexical_top"] or np.inf),
        }
        for name, sets in self.sets.items():
            values[f"match.{name}"] = [sum(t in sets[i] for t in wanted) / max(len(wanted), 1) for i in items]
        for name, column in self.items.items():
            chosen = column[items]
            values[f"item.{name}"] = np.where(np.isnan(chosen), self.defaults[f"item.{name}"], chosen)
        return np.stack([np.asarray(values[name], np.float32) for name in self.recipe.names], axis=1)


def _joined(data: Data, parts: list[str]) -> list[str]:
    return [" ".join(row) for row in zip(*(data.columns[part] for part in parts), strict=True)]
