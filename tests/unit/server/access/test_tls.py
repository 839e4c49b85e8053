import os
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from framehaul_server.access.tls import Certificates, TlsFiles
from tests.support.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def test_good_files_are_taken(authority: Authority) -> None:
    pair = authority.sign("server")
    Certificates(TlsFiles(certificate=pair.certificate, key=pair.key, client_ca=authority.certificate)).credentials()


def make_pipe(path: Path | None) -> None:
    assert path is not None
    path.unlink()
    os.mkfifo(path)


def test_grpc_is_given_certificates_only_when_they_have_changed(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It crashes at times when they are replaced under a handshake."""
    pair, renewed = authority.sign("shown"), authority.sign("shown", file="renewed")
    given: list[Callable[[], object]] = []
    monkeypatch.setattr(
        grpc, "dynamic_ssl_server_credentials", lambda _initial, fetch, **_settings: given.append(fetch)
    )
    Certificates(TlsFiles(certificate=pair.certificate, key=pair.key)).credentials()
    (fetch,) = given
    assert fetch() is None
    pair.certificate.write_bytes(renewed.certificate.read_bytes())
    assert fetch() is None  # the key doesn't fit yet
    pair.key.write_bytes(renewed.key.read_bytes())
    assert isinstance(fetch(), grpc.ServerCertificateConfiguration)
    assert fetch() is None


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (
            lambda files: files.certificate.write_text("-----BEGIN CERTIFICATE-----\nMII"),
            "must be a PEM certificate chain and its unencrypted key",
        ),
        (lambda files: files.key.write_text("no key"), "must be a PEM certificate chain and its unencrypted key"),
        (lambda files: files.client_ca.write_text("none"), "must be PEM certificates of authorities"),
        (lambda files: make_pipe(files.certificate), "server.pem: is a pipe: must be a regular file"),
        (lambda files: make_pipe(files.client_ca), "authority.pem: is a pipe: must be a regular file"),
        (lambda files: files.key.chmod(0o644), "mode 0644: must be 0600"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, spoil: Callable[[TlsFiles], object], text: str) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    files = TlsFiles(certificate=pair.certificate, key=pair.key, client_ca=authority.certificate)
    spoil(files)
    with pytest.raises(ValueError, match=text):
        Certificates(files)


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    """What a renewal looks like between its two writes."""
    old, new = authority.sign("old"), authority.sign("new")
    with pytest.raises(ValueError, match=r"old.pem.*new.key: must be a PEM certificate chain"):
        Certificates(TlsFiles(certificate=old.certificate, key=new.key))


def test_a_missing_file_is_an_error_of_the_system(authority: Authority, tmp_path: Path) -> None:
    pair = authority.sign("server")
    with pytest.raises(FileNotFoundError):
        Certificates(TlsFiles(certificate=pair.certificate, key=tmp_path / "none"))
