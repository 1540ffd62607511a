"""The encoder with the items' vectors, for each labelled query what is ranked, with its features, and which queries no
ranker is trained on."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from endcap_pipelines import candidates, encoder, pools
from endcap_pipelines.data import Data, DataError, read
from endcap_pipelines.encoder import Encoder
from endcap_pipelines.features import Features
from endcap_pipelines.params import Params
from endcap_pipelines.pools import Pool
from endcap_pipelines.source import say, write_json

FOLDER = "prepared"
POOLS = "pools.npz"
HELD_OUT = "prepared/held_out.json"


@dataclass
class Prepared:
    """What later stages need. `held_out`: by query, whether it is kept from training."""

    data: Data
    encoder: Encoder
    features: Features
    pools: list[Pool]
    held_out: np.ndarray

    @property
    def trained_on(self) -> list[int]:
        """The queries that a ranker may learn from."""
        return np.flatnonzero(~self.held_out).tolist()


def run(params: Params, work: Path) -> None:
    out = work / FOLDER
    out.mkdir(parents=True, exist_ok=True)
    data = read(params.data)
    apart = pools.held_out(data.queries, params.prepare.held_out)
    say(f"  {len(data.ids)} products, {len(data.queries)} labelled queries, {apart.sum()} of them held out")
    if not 0 < apart.sum() < len(data.queries):
        raise DataError(
            f"prepare.held_out is {params.prepare.held_out}: of {len(data.queries)} queries {apart.sum()} are held "
            "out; expected some and not all, change the share"
        )
    if not encoder.is_given(data):
        say(f"  the data has no encoder: training one, {params.prepare.steps} steps")
    made = encoder.prepare(data, out, params.seed, params.prepare.steps)
    encoder.save(made, out)
    say(f"  encoder: {made.items.shape[1]} numbers a vector")
    features = features_of(params, data)
    pools.save(out / POOLS, [pools.pool(features, made, i) for i in range(len(data.queries))])
    ids = [data.query_ids[i] for i in np.flatnonzero(apart)]
    write_json(work / HELD_OUT, {"share": params.prepare.held_out, "query_ids": ids})


def load(params: Params, work: Path, model: Path | None = None) -> Prepared:
    """`model`: another form of the encoder's network than the prepared one. The pools are those of the prepared one."""
    data = read(params.data)
    folder = work / FOLDER
    ids = set(held_out(work))
    apart = np.array([query in ids for query in data.query_ids])
    made = encoder.load(folder, model)
    return Prepared(data, made, features_of(params, data), pools.load(folder / POOLS), apart)


def held_out(work: Path) -> list[str]:
    """The ids of the queries that are kept from training."""
    return json.loads((work / HELD_OUT).read_text())["query_ids"]


def features_of(params: Params, data: Data) -> Features:
    return Features(data, candidates.TRAINED[params.prepare.candidates](data.personal))
