"""The units are ones that systemd accepts, with settings that exist and the time that a drain takes."""

import re
import shutil
import subprocess

import pytest

import chart

UNITS = sorted((chart.ROOT / "deploy/systemd").glob("*.service"))
ENVIRONMENT = chart.ROOT / "deploy/systemd/endcap.env"
ROLES = {"gateway", "worker", "registry", "feature-cache"}


def values(unit, key):
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


def role(unit):
    [command] = values(unit, "ExecStart")
    return command.split()[1]


def variables(text):
    return dict(re.findall(r"^#?(ENDCAP_\w+)=(.*)$", text, re.MULTILINE))


def test_every_role_has_a_unit():
    assert {role(unit) for unit in UNITS} == ROLES


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze (Debian: systemd)")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_accepts_it(unit, tmp_path):
    copy = tmp_path / unit.name.replace("@", "@0")
    copy.write_text(unit.read_text().replace("/usr/local/bin/endcap", str(chart.binary())))
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
    complaints = [line for line in verified.stderr.splitlines() if copy.name in line]
    assert verified.returncode == 0 and not complaints, verified.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze (Debian: systemd)")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_it_well_fenced(unit, tmp_path):
    copy = tmp_path / unit.name.replace("@", "@0")
    copy.write_text(unit.read_text())
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", copy]
    rated = subprocess.run(command, capture_output=True, text=True)
    assert rated.returncode == 0, rated.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_it_gets_the_time_that_its_drain_takes(unit):
    settings, section = chart.shipped_settings(), role(unit).replace("-", "_")
    texts = [settings[f"{section}.drain.{part}"] for part in ("delay", "grace")]
    drain = sum(int(text[:-2]) / 1000 if text.endswith("ms") else int(text[:-1]) for text in texts)
    [timeout] = values(unit, "TimeoutStopSec")
    assert drain + 3 < int(timeout.removesuffix("s")) <= drain + 7
    assert values(unit, "KillSignal") == ["SIGTERM"]


def test_every_setting_exists():
    known = chart.shipped_settings()
    texts = [ENVIRONMENT.read_text(), *("\n".join(values(unit, "Environment")) for unit in UNITS)]
    names = {name for text in texts for name in variables(text)}
    assert "ENDCAP_WORKER__TOPOLOGY" in names and "ENDCAP_ADMIN__LISTEN" in names
    for name in names:
        assert name.removeprefix("ENDCAP_").lower().replace("__", ".") in known, name


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_binary_accepts_its_command_with_the_example_environment(unit, tmp_path):
    [command] = values(unit, "ExecStart")
    lines = [line for line in ENVIRONMENT.read_text().splitlines() if not line.startswith("#")]
    args = command.replace("%H", "host").replace("%i", "0").split()[1:]
    env = variables("\n".join(lines + values(unit, "Environment")))
    checked = subprocess.run(
        [chart.binary(), *args, "--check-config"], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    assert 'coordination.kind = "etcd"' in checked.stdout
