from pathlib import Path

import pytest

from framehaul_client import Access, FrameClient, InvalidOption
from framehaul_client.access import is_local, read_token
from framehaul_client.command.arguments import parse

TOKEN = "s3cret-token"


def secret(path: Path, text: str = f"{TOKEN}\n", mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "target", ["127.0.0.1:1", "localhost:50051", "[::1]:1", "unix:/run/x", "dns:///localhost:1", "ipv4:127.0.0.2:1"]
)
def test_a_token_goes_to_this_machine_without_tls(target: str) -> None:
    assert is_local(target)
    assert Access(token=TOKEN).metadata(target) == (("authorization", f"Bearer {TOKEN}"),)


@pytest.mark.parametrize(
    "target", ["gpu7:50051", "10.0.0.1:1", "[fe80::1]:1", "dns:///gpu7:1", "127.0.0.1.evil.org:1", "unixbox:1"]
)
def test_a_token_leaves_this_machine_only_encrypted_or_when_told_so(target: str) -> None:
    assert not is_local(target)
    with pytest.raises(InvalidOption, match="the token would cross the network in the clear: use --tls") as refusal:
        FrameClient(target, access=Access(token=TOKEN))
    assert TOKEN not in str(refusal.value)
    for allowed in (Access(token=TOKEN, tls=True), Access(token=TOKEN, insecure=True)):
        assert allowed.metadata(target)
    assert Access().metadata(target) == ()


def test_a_token_is_in_no_repr() -> None:
    assert TOKEN not in repr(Access(token=TOKEN))


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ünicode", "x" * 5000])
def test_what_cannot_be_a_token_is_refused_unseen(token: str) -> None:
    with pytest.raises(InvalidOption, match="token: must be"):
        Access(token=token)


@pytest.mark.parametrize("given", [{"certificate": Path("c")}, {"key": Path("k")}])
def test_a_certificate_and_its_key_go_together(given: dict[str, Path]) -> None:
    with pytest.raises(InvalidOption, match="must be given together"):
        Access(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given", [{"ca": Path("c")}, {"server_name": "n"}, {"certificate": Path("c"), "key": Path("k")}, {"tls": True}]
)
def test_every_tls_option_means_tls(given: dict[str, object]) -> None:
    assert Access(**given).uses_tls  # type: ignore[arg-type]
    assert not Access().uses_tls


def test_a_token_file_is_this_users_alone(tmp_path: Path) -> None:
    assert read_token(secret(tmp_path / "token")) == TOKEN
    for mode in (0o640, 0o604):
        with pytest.raises(InvalidOption, match=rf"mode {mode:04o}: must be 0600"):
            read_token(secret(tmp_path / "token", mode=mode))
    with pytest.raises(InvalidOption, match=r"missing: the token can't be read: No such file or directory$"):
        read_token(tmp_path / "missing")


def test_a_missing_certificate_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"missing.pem: can't be read: No such file"):
        Access(ca=tmp_path / "missing.pem").credentials()


def test_files_that_hold_no_certificate_are_named(tmp_path: Path) -> None:
    """Before anything is sent."""
    for name in ("a.pem", "b.pem"):
        (tmp_path / name).write_text("no certificate")
    with pytest.raises(InvalidOption, match=r"ca=.*a.pem: must be PEM certificates of authorities"):
        Access(ca=tmp_path / "a.pem").credentials()
    with pytest.raises(InvalidOption, match=r"cert=.*a.pem, key=.*b.pem: must be a PEM certificate chain and its"):
        Access(certificate=tmp_path / "a.pem", key=tmp_path / "b.pem").credentials()


def test_the_environment_says_all_of_it(tmp_path: Path) -> None:
    environment = {
        "FRAMEHAUL_TLS": "1",
        "FRAMEHAUL_CA": "ca.pem",
        "FRAMEHAUL_CERT": "c.pem",
        "FRAMEHAUL_KEY": "c.key",
        "FRAMEHAUL_TLS_SERVER_NAME": "farm",
        "FRAMEHAUL_TOKEN": TOKEN,
    }
    expected = Access(
        tls=True, ca=Path("ca.pem"), certificate=Path("c.pem"), key=Path("c.key"), server_name="farm", token=TOKEN
    )
    assert Access.from_environment(environment) == expected
    assert Access.from_environment(dict.fromkeys(environment, "")) == Access()
    file = secret(tmp_path / "token", "other")
    assert Access.from_environment(environment | {"FRAMEHAUL_TOKEN_FILE": str(file)}).token == "other"
    with pytest.raises(InvalidOption, match="FRAMEHAUL_TLS='yes': must be 0 or 1"):
        Access.from_environment({"FRAMEHAUL_TLS": "yes"})


@pytest.mark.parametrize("command", [("stream", "--out", "v.mp4"), ("info",), ("models",)])
def test_options_count_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """In both commands; and there is no option that takes a token itself."""
    monkeypatch.setenv("FRAMEHAUL_CA", "environment.pem")
    monkeypatch.setenv("FRAMEHAUL_TOKEN", "environment")
    plain = parse([*command]).access()
    assert (plain.ca, plain.token, plain.insecure) == (Path("environment.pem"), "environment", False)
    file = secret(tmp_path / "token")
    told = parse([*command, "--ca", "o.pem", "--token-file", str(file), "--insecure"]).access()
    assert (told.ca, told.token, told.insecure) == (Path("o.pem"), TOKEN, True)
    with pytest.raises(SystemExit):
        parse([*command, "--token", TOKEN])
