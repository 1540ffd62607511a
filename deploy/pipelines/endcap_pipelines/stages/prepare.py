"""The encoder with the items' vectors, and for each labelled query what is ranked, with its features."""

from dataclasses import dataclass
from pathlib import Path

from endcap_pipelines import encoder, pools
from endcap_pipelines.data import Data, read
from endcap_pipelines.encoder import Encoder
from endcap_pipelines.features import Features
from endcap_pipelines.params import Params
from endcap_pipelines.pools import Pool
from endcap_pipelines.source import say

FOLDER = "prepared"
POOLS = "pools.npz"


@dataclass
class Prepared:
    """What later stages need."""

    data: Data
    encoder: Encoder
    features: Features
    pools: list[Pool]


def run(params: Params, work: Path) -> None:
    out = work / FOLDER
    out.mkdir(parents=True, exist_ok=True)
    data = read(params.data)
    say(f"  {len(data.ids)} products, {len(data.queries)} labelled queries")
    made = encoder.prepare(data, out, params.seed, params.prepare.steps)
    encoder.save(made, out)
    say(f"  encoder: {made.items.shape[1]} numbers a vector")
    features = features_of(data)
    pools.save(out / POOLS, [pools.pool(data, made, features, i) for i in range(len(data.queries))])


def load(params: Params, work: Path, model: Path | None = None) -> Prepared:
    """`model`: another form of the encoder's network than the prepared one. The pools are those of the prepared one."""
    data = read(params.data)
    folder = work / FOLDER
    return Prepared(data, encoder.load(folder, model), features_of(data), pools.load(folder / POOLS))


def features_of(data: Data) -> Features:
    return Features(data, personal=(data.folder / "events.parquet").is_file())
