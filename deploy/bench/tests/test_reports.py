"""What the reports say is what was measured."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import polars as pl
import pytest

import compare
import machine
import parts
import peers
import quantized
import scale
import stress


def window(offered: int, in_deadline: int, *latencies: tuple[int, int]) -> dict:
    return {"offered": offered, "in_deadline": in_deadline, "latency_us": [list(pair) for pair in latencies]}


def test_percentiles_of_windows_are_those_of_all_their_requests() -> None:
    windows = [window(99, 99, (1000, 99)), window(1, 1, (50_000, 1))]
    assert stress.percentile(windows, 0.5) == 1000
    assert stress.percentile(windows, 0.99) == 1000
    assert stress.percentile(windows, 0.999) == 50_000
    assert stress.percentile([], 0.99) is None


def test_windows_that_overlap_a_phase_belong_to_it() -> None:
    step = {"windows": [window(i, i) for i in range(10)]}
    assert [w["offered"] for w in stress.inside(step, 0.12, 0.2, length=0.05)] == [2, 3]


def test_recovery_counts_from_the_end_of_the_overload_to_the_last_bad_window() -> None:
    step = {"started_unix_ms": 100_200, "windows": [window(10, 0), window(10, 10), window(10, 5), window(10, 10)]}
    assert stress.recovery(step, ended=100.0) == "0.5 s"
    step["windows"].append(window(10, 0))
    assert stress.recovery(step, ended=100.0) == "not within 0 s"


def test_a_ratio_is_taken_within_its_round_and_a_lane_that_fails_says_why() -> None:
    # The machine is half as fast in every second round: that moves no ratio.
    rates = iter([100.0, 50.0, 100.0, 50.0])
    floor = compare.Lane("floor", lambda rows: next(rates))
    half_rates = iter([50.0, 25.0, 50.0, 25.0])
    half = compare.Lane("half", lambda rows: next(half_rates))

    def breaks(rows: int) -> float:
        raise machine.NotRun("answered 0, errors | none")

    broken = compare.Lane("broken", breaks)
    compare.measure([floor, half, broken], [1], rounds=4)
    assert half.ratios[1] == [0.5] * 4
    assert compare.cell(half, 1) == "50.0% (50.0% to 50.0%; 38/s)"
    assert compare.cell(broken, 1) == "not run: 1 rows: answered 0, errors / none"
    assert "not run" in compare.cell(compare.Lane("never"), 1)


def test_every_peer_is_pinned() -> None:
    here = Path(peers.__file__).parent
    for folder, program in peers.ALL.values():
        if folder == peers.FURNACE:
            assert (here / folder / "Cargo.lock").is_file()
            continue
        pins = (here / f"{folder}.txt").read_text().split()
        assert pins and all("==" in pin for pin in pins), folder
        assert (here / program).is_file()


def test_a_peer_that_cannot_be_installed_says_why() -> None:
    with pytest.raises(machine.NotRun, match="its installation failed: no such package"):
        peers.install(["sh", "-c", "echo no such package >&2; exit 1"])
    with pytest.raises(machine.NotRun, match="its installation failed"):
        peers.install(["/nowhere/setup.sh"])


def test_parts_are_read_from_criterion_and_missed_when_there_are_none(tmp_path: Path) -> None:
    assert "not run" in parts.table(tmp_path)[-1]
    estimate = {"point_estimate": 1234.0, "confidence_interval": {"lower_bound": 1200.0, "upper_bound": 1_300_000.0}}
    folder = tmp_path / "merge" / "shards" / "4" / "new"
    folder.mkdir(parents=True)
    (folder / "estimates.json").write_text(json.dumps({"mean": estimate, "slope": None}))
    assert parts.table(tmp_path)[-1] == "| merge/shards/4 | 1.23 us | 1.2 us to 1.3 ms |"


def test_the_line_through_points_of_a_law_is_the_law() -> None:
    a, b = scale.law([(size, 0.5 + 0.25 * size) for size in (1, 10, 1000, 100_000)])
    assert a == pytest.approx(0.5) and b == pytest.approx(0.25)
    report = "\n".join(scale.items_report({"f32": [(1000, 0.015), (1_000_000, 13.0)]}))
    assert "13.00 ms a million items" in report and "13.0 s" in report
    # Not less than nothing, though that fits better.
    a, b = scale.law([(1, 0.5), (2, 2.5), (4, 7.0)])
    assert a == 0 and 0.5 < b < 1.75


def test_every_point_is_in_the_picture() -> None:
    picture = scale.plot({"one": [(1, 1.0), (64, 9.0)], "two": [(1, 2.0), (64, 20.0)]}, "shards", "ms")
    assert picture.count("<circle") == 4 and picture.count("<polyline") == 2


def test_a_speed_up_stands_beside_its_loss() -> None:
    def built(ndcg: float, encoder: int, forms: dict) -> quantized.Built:
        sizes = {"encoder": encoder, "ranker": 2048}
        return quantized.Built(Path("none"), {"metrics": {"ndcg@10": ndcg}, "forms": forms}, sizes)

    forms = [{"form": "fp32", "served": False, "loss": 0.0}, {"form": "int8-dynamic", "served": True, "loss": 0.002}]
    both = {
        quantized.AS_TRAINED: built(0.5, 4096, {}),
        quantized.CHOSEN: built(0.4975, 1024, {"encoder": forms}),
    }
    lanes = [compare.Lane(name, lambda rows, rate=rate: rate) for name, rate in zip(both, (100.0, 150.0), strict=True)]
    compare.measure(lanes, [1], rounds=2)
    lines = quantized.table(lanes, both)
    assert lines[2] == "| as trained | 100 | 1.00x (1.00x to 1.00x) | fp32, 4 KiB | fp32, 2 KiB | 0.5000 | +0.0000 |"
    chosen = "150 | 1.50x (1.50x to 1.50x) | int8-dynamic, 1 KiB | fp32, 2 KiB | 0.4975 | +0.0025 |"
    assert lines[3] == f"| in the forms chosen | {chosen}"
    assert lines[-1].endswith("not trained on: a loss of +0.0020.")
    with pytest.raises(machine.NotRun, match="as trained: no answer"):
        quantized.table([compare.Lane(quantized.AS_TRAINED, reason="no answer")], both)


def test_the_queries_of_the_data_are_replayed(tmp_path: Path) -> None:
    with pytest.raises(machine.NotRun, match="has none of"):
        quantized.replayed(tmp_path, tmp_path / "queries.txt")
    for name, queries in [("queries_open", ["labelled"]), ("replay_queries", ["red kettle", "mug"])]:
        pl.DataFrame({"query": queries}).write_parquet(tmp_path / f"{name}.parquet")
    assert quantized.replayed(tmp_path, tmp_path / "queries.txt").read_text() == "red kettle\nmug"
