"""Certificates for tests, made by `openssl`: an authority, and what it signs."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _new_key(path: Path) -> tuple[str, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path))


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates that are good for a day."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.certificate = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        _openssl(
            *("req", "-x509", *_new_key(self._key), "-out", str(self.certificate), "-days", "1", "-subj", f"/CN={name}")
        )

    def sign(self, name: str, *, alternative: str = "IP:127.0.0.1,DNS:localhost", file: str = "") -> Pair:
        """Make a certificate for `name`, in files called `file`."""
        stem = self._folder / (file or name)
        pair = Pair(certificate=stem.with_suffix(".pem"), key=stem.with_suffix(".key"))
        request, extensions = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={alternative}\n")
        _openssl("req", *_new_key(pair.key), "-out", str(request), "-subj", f"/CN={name}")
        _openssl(
            *("x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key)),
            *("-CAcreateserial", "-days", "1", "-extfile", str(extensions), "-out", str(pair.certificate)),
        )
        pair.key.chmod(0o600)
        return pair
