"""The files of deploy/ that farms and clusters read, and docs/farms.md: what they say is what the commands take."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from framehaul_client.command.arguments import parse as parse_client
from framehaul_client.command.exits import AGAIN, MEANINGS
from framehaul_server.cli import parse
from framehaul_server.config import OPTIONS

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
MANIFEST = DEPLOY / "kubernetes/framehaul.yaml"
TEMPLATE = DEPLOY / "openjd/decode.yaml"


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


def run(*command: object, **environment: str) -> str:
    """Its output; it must end well."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=environment or None)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def resources() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text())}


@needs("kubernetes_validate")
def test_the_manifest_is_what_kubernetes_takes() -> None:
    """Without a field that it doesn't know."""
    told = run(sys.executable, "-m", "kubernetes_validate", "--strict", MANIFEST)
    assert told.count(" passed ") == 3, told


def test_the_pods_server_starts_with_options_that_it_has_and_ends_in_time() -> None:
    """Ports and names are those that the Service has; the pause before the drain, and the drain, fit."""
    found = resources()
    spec = found["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    environment = {each["name"]: each.get("value", "") for each in container["env"]}
    options = {option.variable for option in OPTIONS}
    assert {name for name in environment if name.startswith("FRAMEHAUL_")} <= options
    environment["FRAMEHAUL_ADVERTISE"] = environment["FRAMEHAUL_ADVERTISE"].replace("$(POD_NAME)", "framehaul-0")
    config = parse(container["args"], environment)
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    (port,) = found["Service"]["spec"]["ports"]
    assert (config.listen.port, port["port"], port["targetPort"]) == (ports["grpc"], ports["grpc"], "grpc")
    assert config.metrics is not None
    assert config.metrics.port == ports["metrics"]
    assert container["readinessProbe"]["grpc"]["port"] == ports["grpc"]
    service = found["StatefulSet"]["spec"]["serviceName"]
    assert service == found["Service"]["metadata"]["name"]
    assert config.advertise == f"framehaul-0.{service}:{ports['grpc']}"
    promised = re.search(r"at most (\d+) s after the grace", (ROOT / "docs/operations.md").read_text())
    assert promised is not None
    needed_s = container["lifecycle"]["preStop"]["sleep"]["seconds"] + config.grace_s + int(promised[1])
    assert spec["terminationGracePeriodSeconds"] >= needed_s
    (tokens,) = [each for each in spec["volumes"] if "secret" in each]
    assert str(config.tokens) == f"{container['volumeMounts'][0]['mountPath']}/tokens.toml"
    assert tokens["secret"]["defaultMode"] & 0o027 == 0, "what the server refuses to read"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_a_server_for_each_gpu(tmp_path: Path) -> None:
    """As docs/farms.md says what to put where, with a program that exists here in the place of the server."""
    (tmp_path / "framehaul.target").write_text((DEPLOY / "framehaul.target").read_text())
    drop_in = tmp_path / "framehaul@.service.d"
    drop_in.mkdir()
    for source, name in (("framehaul.service", "framehaul@.service"), ("framehaul@.service.d/gpu.conf",) * 2):
        (tmp_path / name).write_text(
            (DEPLOY / source).read_text().replace("/opt/framehaul/bin/framehaul-server", "/bin/true")
        )
    units = ("framehaul.target", "framehaul@0.service", "framehaul@7.service")
    assert run("systemd-analyze", "verify", *units, SYSTEMD_UNIT_PATH=f"{tmp_path}:", PATH="/usr/bin:/bin") == ""


def test_the_servers_of_a_host_have_ports_of_their_own() -> None:
    """A device and a port each, by the unit's instance."""
    text = (DEPLOY / "framehaul@.service.d/gpu.conf").read_text()
    command = re.search(r"^ExecStart=/\S+ (.+)$", text, re.MULTILINE)
    assert command is not None
    configs = [parse([*command[1].replace("%i", str(gpu)).split(), "--insecure"], {}) for gpu in range(8)]
    assert [config.worker.device for config in configs] == [f"cuda:{gpu}" for gpu in range(8)]
    assert [config.listen.port for config in configs] == list(range(50050, 50058))
    wanted = re.findall(r"framehaul@(\d)\.service", (DEPLOY / "framehaul.target").read_text())
    assert wanted == [str(gpu) for gpu in range(8)]


@needs("openjd")
def test_open_job_description_takes_the_template() -> None:
    """By its own check."""
    assert "passes validation" in run(sys.executable, "-m", "openjd", "check", TEMPLATE)


def test_the_templates_command_has_options_that_the_client_has() -> None:
    """With the defaults of the job's parameters; those are the client's own, where it has them."""
    template = yaml.safe_load(TEMPLATE.read_text())
    values = {f"Param.{each['name']}": str(each.get("default", "x")) for each in template["parameterDefinitions"]}
    values["Task.Param.Frame"] = "80-159"
    (step,) = template["steps"]
    arguments = [
        re.sub(r"\{\{(.*?)\}\}", lambda found: values[found[1]], each)
        for each in step["script"]["actions"]["onRun"]["args"]
    ]
    options = parse_client(arguments)
    assert (options.frames, options.progress, options.out) == ((80, 159), "openjd", "x/%06d.png")
    default = parse_client(["stream", "--out", "x"])
    assert (options.target, options.retry_for) == (default.target, default.retry_for)


@needs("outline")
def test_opencue_makes_a_job_of_the_outline(tmp_path: Path) -> None:
    """Each of its frames is a chunk of the clip, by a command that the client takes."""
    told = run(
        *(sys.executable, DEPLOY / "opencue/decode.py", "010", "/shots/a b.safetensors", "/shots/%06d.png"),
        *("--frames", "0-320", "--chunk", 40, "--print"),
        PATH="/usr/bin:/bin", HOME=str(tmp_path),
    )  # fmt: skip
    layer = ElementTree.fromstring(told[told.index("<spec>") : told.index("</spec>") + 7]).find(".//layer")
    assert layer is not None
    assert [layer.findtext(name) for name in ("range", "chunk", "timeout_llu")] == ["0-320", "40", "5"]
    command = layer.findtext("cmd") or ""
    assert "--target" not in command, "the hosts' environment says it"
    command = command.replace("#FRAME_START#", "80").replace("#FRAME_END#", "119")
    options = parse_client(shlex.split(command)[1:])
    assert (options.latents, options.frames, options.progress) == ("/shots/a b.safetensors", (80, 119), "json")


def test_the_manual_says_of_each_exit_code_whether_to_try_again() -> None:
    """With the very words of --help."""
    manual = (ROOT / "docs/farms.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (yes|no)\b.*?\|$", manual, re.MULTILINE)
    assert rows == [(str(int(code)), meaning, "yes" if code in AGAIN else "no") for code, meaning in MEANINGS.items()]
