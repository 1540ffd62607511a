import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fleet as fleets
import shop


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small shop's data folder."""
    return shop.write(tmp_path_factory.mktemp("data"))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """A running fleet, as environment variables."""
    if not fleets.PROGRAM.is_file():
        pytest.skip(f"{fleets.PROGRAM} is not built; `cargo build` makes it, or ENDCAP_BIN names one")
    with fleets.running(tmp_path / "fleet") as found:
        yield found
