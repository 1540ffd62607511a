"""The query encoder: given with the data, or a small one trained on products and clicks."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from endcap_pipelines.data import Data

VOCABULARY = 2000
DIMENSION = 64
STEPS = 1500
BATCH = 256
TEMPERATURE = 0.07
# Adds to a table's gradient what the slope at its vectors means for it.
Back = Callable[[np.ndarray, np.ndarray], None]


@dataclass
class Encoder:
    """Item vectors (rounded to f16, as they are stored) and a way to encode queries."""

    items: np.ndarray
    spec: dict[str, object]
    session: ort.InferenceSession
    tokenizer: Tokenizer

    def encode(self, text: str) -> np.ndarray:
        return encode(self.session, self.tokenizer, text, str(self.spec["output"]))


def prepare(data: Data, out: Path, seed: int, steps: int = STEPS) -> Encoder:
    """`steps`: of the training, where the folder brings no encoder."""
    return _given(data, out) if is_given(data) else _trained(data, out, seed, steps)


def is_given(data: Data) -> bool:
    return (data.folder / "encoder_fp32.onnx").is_file()


def save(encoder: Encoder, folder: Path) -> None:
    """What `prepare` has not written: vectors and spec, for `load`."""
    np.save(folder / "items.npy", encoder.items)
    (folder / "encoder.json").write_text(json.dumps(encoder.spec, indent=1) + "\n")


def load(folder: Path, model: Path | None = None) -> Encoder:
    """The encoder that `prepare` and `save` left; `model`: another form of its network."""
    spec = json.loads((folder / "encoder.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(spec["max_tokens"])
    return Encoder(np.load(folder / "items.npy"), spec, _session(model or folder / "encoder.onnx"), tokenizer)


def of_items(data: Data, encoder: Encoder) -> Encoder:
    """What encodes the items: the folder's own where queries and items have a tower each (recipes/two_tower.py)."""
    path = data.folder / "item_encoder_fp32.onnx"
    return replace(encoder, session=_session(path)) if path.is_file() else encoder


def encode(session: ort.InferenceSession, tokenizer: Tokenizer, text: str, output: str) -> np.ndarray:
    encoding = tokenizer.encode(text)
    ids, mask = encoding.ids or [0], encoding.attention_mask or [0]
    feeds = {"input_ids": np.array([ids], np.int64), "attention_mask": np.array([mask], np.int64)}
    return session.run([output], feeds)[0][0]


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _spec(output: str, dim: int, max_tokens: int) -> dict[str, object]:
    return {
        "file": "encoder.onnx",
        "tokenizer": "tokenizer.json",
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
        "output": output,
        "dim": dim,
        "max_tokens": max_tokens,
    }


def _given(data: Data, out: Path) -> Encoder:
    shutil.copyfile(data.folder / "encoder_fp32.onnx", out / "encoder.onnx")
    settings = json.loads((data.folder / "tokenizer.json").read_text())
    # Padding to a fixed length costs seven times the run.
    settings["padding"] = None
    settings["truncation"] = None
    (out / "tokenizer.json").write_text(json.dumps(settings))
    items = np.load(data.folder / "item_emb_f16.npy").astype(np.float16)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    session = _session(out / "encoder.onnx")
    return Encoder(items, _spec("sentence_embedding", items.shape[1], 128), session, tokenizer)


def _trained(data: Data, out: Path, seed: int, steps: int) -> Encoder:
    texts = [f"{name}. {text}" for name, text in zip(data.columns["name"], data.columns["text"], strict=True)]
    tokenizer = _tokenizer(texts)
    tokenizer.save(str(out / "tokenizer.json"))
    tokenizer.enable_truncation(64)
    random = np.random.default_rng(seed)
    table = _train(_pairs(data, random), tokenizer, texts, random, steps)
    onnx.save(_graph(table), out / "encoder.onnx")
    session = _session(out / "encoder.onnx")
    items = np.stack([encode(session, tokenizer, text, "vector") for text in texts])
    return Encoder(items.astype(np.float16), _spec("vector", DIMENSION, 64), session, tokenizer)


def _tokenizer(texts: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _pairs(data: Data, random: np.random.Generator) -> list[tuple[str, int]]:
    """What a shopper could type for a product, and what shoppers typed before a click. No labels."""
    pairs = []
    for row, (name, text, color, noun) in enumerate(
        zip(*(data.columns[c] for c in ["name", "text", "color", "product_class"]), strict=True)
    ):
        brand, rest = data.columns["brand"][row], name.split(", ")
        material = rest[1] if len(rest) > 1 else ""
        known_as = text.rsplit("known as ", 1)[-1].rstrip(".")
        features = rest[0].removeprefix(brand).removesuffix(noun).strip()
        for _ in range(4):
            words = [w for w in (color, material, brand, features) if w and random.random() < 0.4]
            words.append(known_as if random.random() < 0.3 else noun)
            query = " ".join(words).lower()
            pairs.append((_misspelled(query, random) if random.random() < 0.2 else query, row))
    events = data.folder / "events.parquet"
    if events.is_file():
        rows = {item: row for row, item in enumerate(data.ids)}
        table = pq.read_table(events).to_pydict()
        clicks = zip(table["query"], table["product_id"], table["clicked"], strict=True)
        pairs += [(query, rows[item]) for query, item, clicked in clicks if clicked and item in rows]
    return pairs


def _misspelled(query: str, random: np.random.Generator) -> str:
    at = int(random.integers(0, max(len(query) - 1, 1)))
    return query[:at] + query[at + 1 :] if random.random() < 0.5 else query[: at + 1] + query[at:]


def _bags(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    return [np.array(encoding.ids or [0]) for encoding in tokenizer.encode_batch(list(texts))]


def _train(
    pairs: Sequence[tuple[str, int]],
    tokenizer: Tokenizer,
    texts: Sequence[str],
    random: np.random.Generator,
    steps: int,
) -> np.ndarray:
    """Sums of token embeddings, trained so that a query is nearest to its product (in-batch softmax, Adam)."""
    queries, items = _bags(tokenizer, [query for query, _ in pairs]), _bags(tokenizer, texts)
    table = random.normal(0, 0.1, (tokenizer.get_vocab_size(), DIMENSION))
    first, second = np.zeros_like(table), np.zeros_like(table)
    for step in range(1, steps + 1):
        batch = random.integers(0, len(pairs), BATCH)
        rows = np.array([pairs[i][1] for i in batch])
        left, right = [queries[i] for i in batch], [items[row] for row in rows]
        a, a_back = _embed(table, left)
        b, b_back = _embed(table, right)
        logits = a @ b.T / TEMPERATURE
        # Another query for the same product is no mistake.
        same = (rows[:, None] == rows[None, :]) & ~np.eye(BATCH, dtype=bool)
        logits[same] = -1e9
        by_row, by_column = _softmax(logits, 1), _softmax(logits, 0)
        slope = (by_row + by_column - 2 * np.eye(BATCH)) / (2 * BATCH * TEMPERATURE)
        gradient = np.zeros_like(table)
        a_back(gradient, slope @ b)
        b_back(gradient, slope.T @ a)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = 0.02 * (1 - step / (steps + 1))
        table -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return table.astype(np.float32)


def _embed(table: np.ndarray, bags: Sequence[np.ndarray]) -> tuple[np.ndarray, Back]:
    """Unit vectors of bags of tokens, and the way back."""
    lengths = np.array([len(bag) for bag in bags])
    flat, owner = np.concatenate(bags), np.repeat(np.arange(len(bags)), lengths)
    sums = np.add.reduceat(table[flat], np.concatenate([[0], np.cumsum(lengths)[:-1]]))
    norms = np.linalg.norm(sums, axis=1, keepdims=True) + 1e-9
    unit = sums / norms

    def back(gradient: np.ndarray, slope: np.ndarray) -> None:
        inner = (slope - unit * (slope * unit).sum(axis=1, keepdims=True)) / norms
        np.add.at(gradient, flat, inner[owner])

    return unit, back


def _softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


def _graph(table: np.ndarray) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["embeddings", "input_ids"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["tokens", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["sum"], keepdims=0),
        helper.make_node("LpNormalization", ["sum"], ["vector"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "tokens"]),
        ],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", DIMENSION])],
        [
            numpy_helper.from_array(table, "embeddings"),
            numpy_helper.from_array(np.array([2], np.int64), "last"),
            numpy_helper.from_array(np.array([1], np.int64), "middle"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model
