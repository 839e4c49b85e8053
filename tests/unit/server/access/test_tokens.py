import hashlib
import stat
import tomllib
from pathlib import Path

import pytest

from framehaul_server.access.callers import by_token
from framehaul_server.access.tokens import main, parse_tokens, read_tokens
from framehaul_server.core.tenants import Tenant

DIGEST = "ab" * 32
OTHER = "cd" * 32


def test_a_tenant_has_tokens_and_limits() -> None:
    text = f"""
        [tenants.film]
        token_sha256 = ["{DIGEST}", "{OTHER}"]
        weight = 2
        max_sessions = 8
        max_queued = 0
        max_waiting_mib = 512
        max_priority = 10
        watch = true
    """
    film = Tenant(
        name="film",
        weight=2.0,
        max_sessions=8,
        max_queued=0,
        max_waiting_bytes=512 << 20,
        max_priority=10,
        watch=True,
    )
    assert parse_tokens(tomllib.loads(text)) == {bytes.fromhex(DIGEST): film, bytes.fromhex(OTHER): film}


def test_what_is_left_out_is_unlimited_and_nobody_watches_unasked() -> None:
    found = parse_tokens({"tenants": {"ads": {"token_sha256": [DIGEST]}}})
    assert found == {bytes.fromhex(DIGEST): Tenant(name="ads", watch=False)}


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, r"must hold tables \[tenants.NAME\]"),
        ({"tenants": {}}, r"must hold tables"),
        ({"tenants": {"a": {}}, "more": 1}, r"nothing else"),
        ({"tenants": {"a b": {}}}, r"tenants.a b: a name must be"),
        ({"tenants": {"a": 1}}, r"tenants.a=1: must be a table"),
        ({"tenants": {"a": {"token": "x"}}}, r"tenants.a.token: must be one of token_sha256, weight"),
        ({"tenants": {"a": {}}}, r"tenants.a.token_sha256: must be a list"),
        ({"tenants": {"a": {"token_sha256": []}}}, r"token_sha256: must be a list"),
        ({"tenants": {"a": {"token_sha256": DIGEST}}}, r"token_sha256: must be a list"),
        ({"tenants": {"a": {"token_sha256": [DIGEST, 7]}}}, r"token_sha256: must be a list"),
        ({"tenants": {"a": {"token_sha256": [DIGEST, DIGEST]}}}, r"abababab... is there twice"),
        ({"tenants": {"a": {"token_sha256": [DIGEST], "weight": 0}}}, r"tenants.a.weight=0: must be 0.01..100"),
        ({"tenants": {"a": {"token_sha256": [DIGEST], "weight": True}}}, r"weight=True"),
        ({"tenants": {"a": {"token_sha256": [DIGEST], "max_sessions": 1.5}}}, r"max_sessions=1.5: must be 1..10000, a"),
        ({"tenants": {"a": {"token_sha256": [DIGEST], "max_queued": 1001}}}, r"max_queued=1001: must be 0..1000, a"),
        ({"tenants": {"a": {"token_sha256": [DIGEST], "max_priority": 101}}}, r"max_priority=101: must be -100..100"),
        ({"tenants": {"a": {"token_sha256": [DIGEST], "watch": 1}}}, r"tenants.a.watch=1: must be true or false"),
    ],
)
def test_mistakes_are_named(document: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_tokens(document)


def test_a_token_put_there_by_mistake_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="must be a list of tokens' SHA-256 digests") as refusal:
        parse_tokens({"tenants": {"a": {"token_sha256": ["the-secret-itself"]}}})
    assert "the-secret" not in str(refusal.value)


@pytest.mark.parametrize("text", ["[tenants", "[tenants.a]\ntoken_sha256 = 1\n"])
def test_the_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ValueError, match=r"tokens.toml: "):
        read_tokens(path)


@pytest.mark.parametrize("name", ["film", "film.day-2"])
def test_a_new_token_and_its_lines_fit_together(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The lines go into the server's file as they are; the token goes into one that only its owner reads."""
    file, path = tmp_path / "film.token", tmp_path / "tokens.toml"
    assert main([name, str(file)]) == 0
    token = file.read_text().strip()
    assert len(token) == 43
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = capsys.readouterr().out
    assert token not in lines
    path.write_text(lines)
    path.chmod(0o600)
    tenants = read_tokens(path)
    assert [*tenants] == [hashlib.sha256(token.encode()).digest()]
    caller = by_token(lambda: tenants)((("authorization", f"Bearer {token}"),))
    assert caller.tenant == Tenant(name=name)


def test_two_tokens_differ(tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "other"]
    for file in files:
        main(["a", str(file)])
    assert files[0].read_text() != files[1].read_text()


@pytest.mark.parametrize(
    ("name", "file", "told"),
    [
        ("a b", "new", "'a b': must be 1..64 letters"),
        ("a", "there", "there: File exists"),
        ("a", "no/folder", "folder: No such file"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, file: str, told: str
) -> None:
    """A token that is there already is kept."""
    (tmp_path / "there").write_text("kept")
    with pytest.raises(SystemExit):
        main([name, str(tmp_path / file)])
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""
    assert (tmp_path / "there").read_text() == "kept"
