from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from framehaul_server.access.tls import TlsFiles
from framehaul_server.cli import parse
from framehaul_server.config import ServerConfig


def test_without_options_the_defaults_count() -> None:
    assert parse([], {}) == ServerConfig()


def test_options_are_taken_over() -> None:
    config = parse(
        [
            *("--listen", "[::1]:0", "--device", "cuda:1", "--max-sessions", "3", "--max-size", "1280x720"),
            *("--max-queued", "0", "--max-queued-mib", "7"),
            *("--slots", "5", "--chunk-latents", "2", "--session-window-mib", "8", "--grace", "1.5"),
            *("--tls-cert", "c.pem", "--tls-key", "c.key", "--tls-client-ca", "ca.pem", "--tokens", "t.toml"),
            *("--advertise", "farm:1", "--reflection", "--allow-synthetic", "--log-level", "debug"),
        ],
        {},
    )
    assert str(config.listen) == "[::1]:0"
    assert (config.worker.device, config.worker.max_pixels) == ("cuda:1", 1280 * 720)
    assert (config.worker.num_slots, config.worker.chunk_latents) == (5, 2)
    assert (config.max_sessions, config.session_window_bytes, config.grace_s) == (3, 8 << 20, 1.5)
    assert (config.max_queued, config.max_queued_bytes) == (0, 7 << 20)
    assert (config.advertise, config.reflection, config.allow_synthetic) == ("farm:1", True, True)
    assert config.log_level == "debug"
    assert config.tls == TlsFiles(certificate=Path("c.pem"), key=Path("c.key"), client_ca=Path("ca.pem"))
    assert config.tokens == Path("t.toml")


def test_the_command_line_counts_before_the_environment() -> None:
    environment = {"FRAMEHAUL_LISTEN": "127.0.0.1:1", "FRAMEHAUL_MAX_SESSIONS": "9", "FRAMEHAUL_REFLECTION": "1"}
    config = parse(["--listen", "127.0.0.1:2", "--no-reflection"], environment)
    assert config.listen.port == 2
    assert config.max_sessions == 9
    assert not config.reflection
    assert parse([], environment).reflection


def test_several_models_are_served(tmp_path: Path) -> None:
    """The first is the default; in the environment commas part them, and the command line counts first."""
    for name in ("a", "b"):
        save_file({"x": np.zeros(1, np.float32)}, tmp_path / f"{name}.safetensors")
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.safetensors").rename(tmp_path / name / "diffusion_pytorch_model.safetensors")
        (tmp_path / name / "config.json").write_text('{"_class_name": "AutoencoderKLWan"}')
    texts = [f"a={tmp_path / 'a'}", "tiny", f"b.2={tmp_path / 'b'}"]
    config = parse([part for text in texts for part in ("--model", text)], {"FRAMEHAUL_MODEL": "tiny"})
    assert [model.spec.name for model in config.worker.models] == ["a", "tiny", "b.2"]
    assert [model.path for model in config.worker.models] == [str(tmp_path / "a"), None, str(tmp_path / "b")]
    assert parse([], {"FRAMEHAUL_MODEL": ",".join(texts)}) == config


def test_a_leading_tilde_is_home_in_every_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind `--option=`, and in the environment, where shells leave it alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    options = ["--tls-cert=~/c.pem", "--tls-key=~/c.key", "--tls-client-ca=~/ca.pem"]
    config = parse(options, {"FRAMEHAUL_TOKENS": "~/t.toml"})
    home = {name: tmp_path / name for name in ("c.pem", "c.key", "ca.pem", "t.toml")}
    assert config.tls == TlsFiles(certificate=home["c.pem"], key=home["c.key"], client_ca=home["ca.pem"])
    assert config.tokens == home["t.toml"]


def test_sizes_to_warm_up_with_are_read() -> None:
    """As many as are named; none by default."""
    assert parse([], {}).worker.warm_up == ()
    assert parse(["--warm-up", "832x480,480x832"], {}).worker.warm_up == ((832, 480), (480, 832))
    assert parse([], {"FRAMEHAUL_WARM_UP": "64x64"}).worker.warm_up == ((64, 64),)


@pytest.mark.parametrize(
    ("arguments", "environment", "text"),
    [
        (["--listen", "nowhere"], {}, "argument --listen: 'nowhere': must be HOST:PORT"),
        ([], {"FRAMEHAUL_LISTEN": "nowhere"}, "must be HOST:PORT"),
        (["--listen", "0.0.0.0:1"], {}, "--insecure"),
        (["--slots", "many"], {}, "'many': must be a whole number"),
        (["--grace", "long"], {}, "'long': must be a number"),
        (["--slots", "1"], {}, "num_slots=1: must be 2..1024"),
        (["--device", "tpu"], {}, "device=tpu: must be auto, cpu, cuda or cuda:N"),
        (["--model", "wan"], {}, "model=wan: must be tiny, or NAME=PATH"),
        ([], {"FRAMEHAUL_MODEL": "tiny,"}, "model=: must be tiny, or NAME=PATH"),
        (["--model", "w=/nowhere"], {}, "model w=/nowhere: must be a folder with config.json"),
        (["--model", "tiny", "--model", "tiny"], {}, "models=tiny,tiny: must each have a name of its own"),
        (["--warm-up", "832x480,big"], {}, "'big': must be WIDTHxHEIGHT"),
        (["--warm-up", "832x484"], {}, "warm_up=832x484: must be multiples of 8 for model 'tiny'"),
        (["--warm-up", "4000x4000"], {}, "warm_up=4000x4000: must be a size of up to 2088960 pixels"),
        (["--max-size", "1080p"], {}, "'1080p': must be WIDTHxHEIGHT"),
        ([], {"FRAMEHAUL_REFLECTION": "yes"}, "FRAMEHAUL_REFLECTION='yes': must be 0 or 1"),
        (["--highlight-saliency", "/no"], {}, "weights no=No such file or directory: must be a readable safetensors"),
        (["--tls-cert", "c"], {}, "tls_key=unset: must be given too"),
        (["--tls-client-ca", "c"], {}, "tls_cert and tls_key=unset: must be given too"),
        (["--refl"], {}, "unrecognized arguments: --refl"),
    ],
)
def test_a_wrong_option_is_named_and_ends_with_code_2(
    arguments: list[str], environment: dict[str, str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(arguments, environment)
    assert stop.value.code == 2
    assert text in capsys.readouterr().err


def test_help_names_the_variables_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["--help"], {})
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for expected in ("FRAMEHAUL_LISTEN", "FRAMEHAUL_ALLOW_SYNTHETIC", "exit codes:", "143"):
        assert expected in text


def test_memory_is_given_in_gib() -> None:
    """Fractions are fine."""
    config = parse(["--device-memory-gib", "1.5", "--park-gib", "0"], {})
    assert (config.worker.device_memory_bytes, config.worker.park_bytes) == (3 << 29, 0)


@pytest.mark.parametrize("value", ["much", "inf", "nan"])
def test_memory_that_is_no_number_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--park-gib", value], {})
    assert f"'{value}': must be a number of GiB" in capsys.readouterr().err


def test_plugins_are_named_like_models(capsys: pytest.CaptureFixture[str]) -> None:
    """Each by an option, or all in the environment; one that can't be used ends the start."""
    for arguments, environment in (
        ([*("--plugin", "no_such"), *("--plugin", "other")], {}),
        ([], {"FRAMEHAUL_PLUGIN": "no_such,other"}),
    ):
        with pytest.raises(SystemExit) as left:
            parse(arguments, environment)
        assert left.value.code == 2
        assert "plugin no_such:DECODER=ModuleNotFoundError: No module named 'no_such'" in capsys.readouterr().err
