import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from framehaul_pipeline.supervision import supervisor
from framehaul_server import app
from framehaul_server.access.tokens import parse_tokens
from framehaul_server.cli import parse
from framehaul_server.config import OPTIONS

ROOT = Path(__file__).parents[3]
UNIT = ROOT / "deploy/framehaul.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """With a program that exists here in the place of the server."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/framehaul/bin/framehaul-server", sys.executable))
    checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_options_and_codes_of_the_deployment_exist() -> None:
    """What the unit's comments and the container's command say is what the server takes."""
    container = (ROOT / "deploy/Containerfile").read_text()
    command = re.search(r"framehaul \\\n#\s+(--listen.*?)\n#\n", container, re.DOTALL)
    assert command is not None
    arguments = command[1].replace("\\\n#", " ").split()
    config = parse(arguments, {})
    assert config.tls is not None
    assert config.tokens is not None
    assert "RestartPreventExitStatus=2 3" in UNIT.read_text()


def test_the_example_of_the_units_environment_names_options() -> None:
    lines = [line for line in (ROOT / "deploy/server.env").read_text().splitlines() if not line.startswith("#")]
    environment = dict(line.split("=", 1) for line in lines)
    assert set(environment) <= {option.variable for option in OPTIONS}
    config = parse([], environment)
    assert str(config.listen) == "0.0.0.0:50051"
    assert not config.exposed


def test_the_deployment_leaves_time_to_stop() -> None:
    """As the manual says: after the grace clients hear how they ended, then a worker that hangs is killed."""
    after_grace_s = app._STATUS_TIMEOUT_S + app._STOP_MARGIN_S + supervisor._STOP_TIMEOUT_S
    promised = re.search(r"at most (\d+) s after the grace", (ROOT / "docs/operations.md").read_text())
    assert promised is not None
    assert after_grace_s < int(promised[1])
    allowed = re.findall(r"TimeoutStopSec=(\d+)", UNIT.read_text())
    allowed += re.findall(r"--stop-timeout (\d+)", (ROOT / "deploy/Containerfile").read_text())
    assert len(allowed) == 2
    assert min(map(int, allowed)) >= parse([], {}).grace_s + int(promised[1])


def test_the_manuals_tokens_file_is_one() -> None:
    manual = (ROOT / "docs/operations.md").read_text()
    example = re.search(r"```toml\n(.*?)```", manual, re.DOTALL)
    assert example is not None
    whole = re.sub(r'"([0-9a-f]{16})\.\.\."', lambda found: f'"{found[1] * 4}"', example[1])
    assert {tenant.name for tenant in parse_tokens(tomllib.loads(whole)).values()} == {"film", "ads"}
