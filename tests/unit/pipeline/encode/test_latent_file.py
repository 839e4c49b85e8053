"""A latent file appears under its name only when it is whole."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from framehaul_pipeline.encode.latent_file import LatentFileWriter

SHAPE = (2, 3, 4)


def test_file_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    latents = np.arange(5 * 24, dtype="<f2").reshape(5, *SHAPE)
    with LatentFileWriter(path, SHAPE) as writer:
        writer.write(latents[:2].tobytes())
        writer.write(latents[2:].tobytes())
        assert list(tmp_path.iterdir()) == []
        writer.finish({"framehaul.model": "tiny"})
    with safe_open(path, "np") as file:
        assert file.metadata() == {"framehaul.model": "tiny"}
        assert np.array_equal(file.get_tensor("latents"), latents)
    assert list(tmp_path.iterdir()) == [path]


def test_tensor_starts_on_a_multiple_of_eight(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    with LatentFileWriter(path, SHAPE) as writer:
        writer.write(bytes(48))
        writer.finish({"k": "odd"})
    header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
    assert header_bytes % 8 == 0
    assert json.loads(path.read_bytes()[8 : 8 + header_bytes])["latents"]["shape"] == [1, 2, 3, 4]


def test_unfinished_file_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with LatentFileWriter(tmp_path / "clip.safetensors", SHAPE) as writer:
            writer.write(bytes(48))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_old_file_stays_whole_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    path.write_bytes(b"old")
    with LatentFileWriter(path, SHAPE) as writer:
        writer.write(bytes(48))
        assert path.read_bytes() == b"old"
        writer.finish({})
    assert path.read_bytes() != b"old"


@pytest.mark.parametrize("old", [b"old", None])
def test_of_a_link_the_file_that_it_leads_to_is_written(tmp_path: Path, old: bytes | None) -> None:
    """It may be still to be made."""
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "clip.safetensors", tmp_path / "link.safetensors"
    if old is not None:
        target.write_bytes(old)
    link.symlink_to("real/clip.safetensors")
    with LatentFileWriter(link, SHAPE) as writer:
        writer.write(bytes(48))
        writer.finish({})
    assert link.is_symlink()
    assert len(target.read_bytes()) > 48
    assert list(target.parent.iterdir()) == [target]


def test_part_of_a_latent_is_refused(tmp_path: Path) -> None:
    with (
        LatentFileWriter(tmp_path / "clip.safetensors", SHAPE) as writer,
        pytest.raises(ValueError, match="multiple of 48"),
    ):
        writer.write(bytes(47))


def test_file_has_ordinary_permissions(tmp_path: Path) -> None:
    path, plain = tmp_path / "clip.safetensors", tmp_path / "plain"
    plain.touch()
    with LatentFileWriter(path, SHAPE) as writer:
        writer.finish({})
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_failure_while_finishing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("framehaul_pipeline.encode.latent_file.shutil.copyfileobj", no_room)
    with LatentFileWriter(tmp_path / "clip.safetensors", SHAPE) as writer:
        writer.write(bytes(48))
        with pytest.raises(OSError, match="No space"):
            writer.finish({})
    assert list(tmp_path.iterdir()) == []
