"""A shop small enough to be trained on in seconds: what matches a query in class and color is exact."""

from pathlib import Path

import numpy as np
import polars as pl

CLASSES = ["kettle", "lamp", "rug", "stool", "blanket", "planter"]
COLORS = ["red", "blue", "green", "grey", "yellow"]
MATERIALS = ["steel", "pine", "wool", "bamboo"]


def write(folder: Path, seed: int = 3) -> Path:
    """Products, labels, clicks and shoppers as a data folder."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    products = [
        {"color": color, "product_class": noun, "material": material, "brand": f"brand{random.integers(5)}"}
        for noun in CLASSES
        for color in COLORS
        for material in MATERIALS
        for _ in range(3)
    ]
    ids = [f"p{i:03}" for i in range(len(products))]
    pl.DataFrame(
        {
            "product_id": ids,
            # The color is not in every name: vectors of names alone do not find all of them.
            "name": [
                f"{p['brand']} {p['product_class']}, {p['material']}" + (f", {p['color']}" if i % 2 else "")
                for i, p in enumerate(products)
            ],
            "product_class": [p["product_class"] for p in products],
            "category_hierarchy": ["home"] * len(ids),
            "brand": [p["brand"] for p in products],
            "color": [p["color"] for p in products],
            "text": [f"of {p['material']}, known as {p['product_class']}." for p in products],
            "rating": random.uniform(1, 5, len(ids)).round(1),
            "review_count": random.integers(0, 500, len(ids)),
            "price": random.uniform(5, 200, len(ids)).round(2),
        }
    ).write_parquet(folder / "products.parquet")
    queries = [(color, noun) for noun in CLASSES for color in COLORS]
    words = [f"{color} {noun}" for color, noun in queries]
    # One query twice, in another order: its two ids must stand in one fold.
    queries, words = [*queries, queries[0]], [*words, " ".join(reversed(queries[0]))]
    pl.DataFrame({"query_id": range(len(words)), "query": words}).write_parquet(folder / "queries_open.parquet")
    labels = [
        {"query_id": q, "product_id": ids[i], "label": _label(product, color, noun, random)}
        for q, (color, noun) in enumerate(queries)
        for i, product in enumerate(products)
        if product["product_class"] == noun or (product["color"] == color and i % 5 == 0)
    ]
    pl.DataFrame(labels).write_parquet(folder / "labels_open.parquet")
    shoppers = {f"s{i}": float(random.uniform(-1, 1)) for i in range(20)}
    pl.DataFrame({"shopper_id": list(shoppers), "price_affinity": list(shoppers.values())}).write_parquet(
        folder / "shoppers.parquet"
    )
    events = 400
    pl.DataFrame(
        {
            "shopper_id": random.choice(list(shoppers), events),
            "query": random.choice(words, events),
            "product_id": random.choice(ids, events),
            "position": random.integers(1, 11, events),
            "clicked": random.random(events) < 0.3,
        }
    ).write_parquet(folder / "events.parquet")
    return folder


def _label(product: dict[str, str], color: str, noun: str, random: np.random.Generator) -> str:
    """Judges err, so that no ranker can be perfect on queries that it has not seen."""
    if product["product_class"] != noun or random.random() < 0.15:
        return "Irrelevant"
    return "Exact" if product["color"] == color else "Substitute"
