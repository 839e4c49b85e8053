from pathlib import Path

import pytest

from framehaul_server.cli import parse
from framehaul_server.config import ServerConfig, TlsFiles


def test_without_options_the_defaults_count() -> None:
    assert parse([], {}) == ServerConfig()


def test_options_are_taken_over() -> None:
    config = parse(
        [
            *("--listen", "[::1]:0", "--device", "cuda:1", "--max-sessions", "3", "--max-size", "1280x720"),
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
        (["--model", "wan"], {}, "'wan': must be one of tiny"),
        (["--max-size", "1080p"], {}, "'1080p': must be WIDTHxHEIGHT"),
        ([], {"FRAMEHAUL_REFLECTION": "yes"}, "FRAMEHAUL_REFLECTION='yes': must be 0 or 1"),
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
