"""The whole way, on a fleet that runs: from data to `stable`, and a refusal that leaves it alone."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from endcap_pipelines import gate, pipeline
from endcap_pipelines.fleet import Endcap
from endcap_pipelines.params import Params, Prepare, Train

MODEL = "search-ranker"


def test_good_labels_become_stable_and_shuffled_ones_are_refused(
    data: Path, fleet: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, value in fleet.items():
        monkeypatch.setenv(name, value)
    endcap = Endcap.found()
    pipeline.run(Params(data, prepare=Prepare(steps=60)), tmp_path / "good")
    assert endcap.rollout(MODEL)["aliases"] == {"stable": 1}
    told = capsys.readouterr().out
    version = endcap.show(MODEL, 1)
    assert "version 1 promoted" in told and "by vector alone" in told
    # The way back: what the registry says of the version is in the table, and is the data's digest.
    assert version["lineage"]["data"] in told and version["digest"] in told
    assert version["evaluation"]["encoder_bytes"] < version["evaluation"]["encoder_bytes_before"]

    history = endcap.json("model", "history", MODEL)
    shuffled = Params(data, prepare=Prepare(steps=60), train=Train(shuffle_labels=True))
    with pytest.raises(gate.Refused, match=r"version 2 is refused(.|\n)*through the fleet(.|\n)*not trained on"):
        pipeline.run(shuffled, tmp_path / "shuffled")
    assert "version 2 refused; stable stays as it was" in capsys.readouterr().out
    assert endcap.rollout(MODEL)["aliases"] == {"stable": 1}
    assert endcap.show(MODEL, 2)["lineage"]["shuffled_labels"] == "true"
    moves = [entry for entry in endcap.json("model", "history", MODEL) if entry["action"] == "promoted"]
    assert moves == [entry for entry in history if entry["action"] == "promoted"]
