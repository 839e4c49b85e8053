import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from framehaul.formats import LatentDtype
from framehaul_client.errors import LatentsFileError
from framehaul_client.source.latents_file import LatentsFile


def values(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float16)


LATENTS = values(5, 4, 2, 3)
WIDE = LATENTS.astype(np.float64)


def saved(path: Path, notes: dict[str, str] | None = None, /, **tensors: Any) -> Path:
    """A good file, unless tensors or notes are bad."""
    metadata = {f"framehaul.{name}": note for name, note in (notes or {}).items()}
    save_file(tensors or {"latents": LATENTS}, path, metadata)
    return path


def write_bfloat16(path: Path, shape: list[int], bits: np.ndarray[Any, Any]) -> None:
    """numpy can't name bfloat16, so the file is made by hand."""
    header = f'{{"latents":{{"dtype":"BF16","shape":{shape},"data_offsets":[0,{bits.nbytes}]}}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_clip_is_read_latent_by_latent(tmp_path: Path, dtype: Any) -> None:
    """[T, C, h, w] as safetensors' own writer makes it."""
    latents = LATENTS.astype(dtype)
    with LatentsFile(saved(tmp_path / "a.safetensors", latents=latents, other=values(7))) as file:
        assert len(file) == file.num_latents == 5
        assert file.latents.shape == (4, 2, 3)
        assert np.array_equal(np.stack(list(file)), latents)
        assert np.array_equal(np.stack(list(file)), latents), "it can be read twice"


@pytest.mark.parametrize("shape", [[5, 4, 2, 3], [1, 4, 5, 2, 3]])
def test_bfloat16_comes_as_bit_patterns(tmp_path: Path, shape: list[int]) -> None:
    """Every bit is kept, in both layouts."""
    bits = np.arange(120, dtype=np.uint16)
    write_bfloat16(tmp_path / "a.safetensors", shape, bits)
    expected = bits.reshape(shape) if len(shape) == 4 else bits.reshape(shape)[0].transpose(1, 0, 2, 3)
    with LatentsFile(tmp_path / "a.safetensors") as file:
        assert file.latents.dtype is LatentDtype.BFLOAT16
        assert np.array_equal(np.stack(list(file)), expected)


def test_notes_and_another_tensor(tmp_path: Path) -> None:
    """Model, rate and scaling come from the file; the tensor's name may be given."""
    notes = {"model": "tiny", "fps": "24000/1001", "normalized": "True"}
    with LatentsFile(str(saved(tmp_path / "a.safetensors", notes, z=LATENTS)), "z") as file:
        assert (file.model, file.fps, file.normalized) == ("tiny", Fraction(24000, 1001), True)


LAYOUTS = {
    "TCHW": (LATENTS, LATENTS[None]),
    "CTHW": (LATENTS.transpose(1, 0, 2, 3), LATENTS.transpose(1, 0, 2, 3)[None]),
}


@pytest.mark.parametrize("by_note", [False, True])
@pytest.mark.parametrize("layout", ["TCHW", "CTHW"])
@pytest.mark.parametrize("batch", [0, 1])
def test_either_layout_gives_the_same_latents(tmp_path: Path, layout: str, batch: int, by_note: bool) -> None:
    """Told by the caller or by the file; also after a batch of one."""
    notes = {"layout": layout} if by_note else {}
    path = saved(tmp_path / "a.safetensors", notes, latents=np.ascontiguousarray(LAYOUTS[layout][batch]))
    with LatentsFile(path, layout=None if by_note else layout) as file:
        assert np.array_equal(np.stack(list(file)), LATENTS)
        assert np.array_equal(np.stack(list(file.read_from(3))), LATENTS[3:])


@pytest.mark.parametrize(
    ("shape", "read_as", "other"), [((4, 4, 2, 3), "TCHW", "CTHW"), ((1, 4, 4, 2, 3), "CTHW", "TCHW")]
)
def test_a_guess_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shape: tuple[int, ...], read_as: str, other: str
) -> None:
    """As many latents as channels could be either; whoever says which hears nothing."""
    path = saved(tmp_path / "a.safetensors", latents=values(*shape))
    LatentsFile(path, layout=other).close()
    assert not caplog.text
    LatentsFile(path).close()
    assert f"4 latents of 4 channels fit two layouts, and are read as {read_as}" in caplog.text
    assert f"it is {other} (--layout, layout=)" in caplog.text


@pytest.mark.parametrize(
    "tensors",
    [
        {"latent_tensor": LATENTS, "latent_format_version_0": values(0)},  # ComfyUI's SaveLatent
        {"latent_tensor": LATENTS, "samples": values(5, 4, 2, 3)},
        {"samples": LATENTS, "mask": values(5, 1, 2, 3), "timesteps": values(7)},
    ],
)
def test_latents_of_another_name_are_found(tmp_path: Path, tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    """ComfyUI's, and the only ones that can be latents."""
    with LatentsFile(saved(tmp_path / "a.safetensors", **tensors)) as file:
        assert np.array_equal(np.stack(list(file)), LATENTS)


def test_a_name_that_is_given_must_be_there(tmp_path: Path) -> None:
    """Nothing else is taken for it."""
    with pytest.raises(LatentsFileError, match="tensor 'z' is missing: it holds 'latents'"):
        LatentsFile(saved(tmp_path / "a.safetensors"), "z")


def test_the_number_of_frames_is_noted(tmp_path: Path) -> None:
    with LatentsFile(saved(tmp_path / "a.safetensors", {"frames": "18"})) as file:
        assert file.num_frames == 18


def test_a_file_without_notes(tmp_path: Path) -> None:
    """Nothing is assumed."""
    with LatentsFile(saved(tmp_path / "a.safetensors")) as file:
        assert (file.model, file.fps, file.normalized, file.num_frames) == ("", None, False, None)


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    """A large file is read through in the memory of a latent."""
    path = tmp_path / "a.safetensors"
    shape = [512, 16, 64, 64]
    num_bytes = 512 * 16 * 64 * 64 * 2
    header = f'{{"latents":{{"dtype":"F16","shape":{shape},"data_offsets":[0,{num_bytes}]}}}}'.encode()
    with path.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.truncate(8 + len(header) + num_bytes)  # a hole: reads as zeros
    before = psutil.Process().memory_info().rss
    with LatentsFile(path) as file:
        assert sum(1 for _ in file) == 512
    assert psutil.Process().memory_info().rss - before < 16 << 20


@pytest.mark.parametrize("fps", ["fast", "90000/1"])
def test_an_impossible_rate_is_told_when_it_is_wanted(tmp_path: Path, fps: str) -> None:
    """Whoever gives another rate, or needs none, can play the file."""
    with LatentsFile(saved(tmp_path / "a.safetensors", {"fps": fps})) as file:
        assert file.num_latents == 5
        with pytest.raises(
            LatentsFileError, match=rf"a\.safetensors: framehaul\.fps={fps}: must .*: say which with --fps"
        ):
            assert file.fps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file or directory"),
        (Path.mkdir, "must be a regular file"),
        (os.mkfifo, "must be a regular file"),
        (lambda path: path.write_text("these are not latents at all"), "not a safetensors file"),
        (lambda path: os.truncate(saved(path), 300), "cut off: tensor 'latents' ends at byte"),
        (
            lambda path: path.write_bytes(saved(path).read_bytes() * 2),
            "its tensors end at byte .*: are these several files",
        ),
        (lambda path: path.write_bytes(b"\2" + bytes(7) + b"{}"), "tensor 'latents' is missing: it holds none"),
        (lambda path: saved(path, z=LATENTS, y=LATENTS), "tensor 'latents' is missing: it holds 'y', 'z'"),
        (
            lambda path: saved(path, mask=values(5, 1, 2, 3), flat=values(5, 4), wide=WIDE),
            "tensor 'latents' is missing: it holds 'flat', 'mask', 'wide'",
        ),
        (
            lambda path: saved(path, latents=LATENTS[0]),
            r"has shape \[4, 2, 3\]: must be \[T, C, h, w\] or \[1, C, T, h, w\]",
        ),
        (lambda path: saved(path, latents=values(2, 4, 5, 2, 3)), r"has shape \[2, 4, 5, 2, 3\]: must be"),
        (lambda path: saved(path, latents=LATENTS[:0]), "every size must be 1 or more"),
        (lambda path: saved(path, latents=WIDE), "has dtype F64: must be F16, BF16 or F32"),
        (lambda path: saved(path, {"frames": "+10"}), r"framehaul.frames=\+10: must be a whole number from 1"),
        (lambda path: saved(path, {"frames": "0"}), "framehaul.frames=0: must be a whole number from 1"),
        (lambda path: saved(path, {"layout": "HWC"}), "layout=HWC: must be TCHW or CTHW"),
        (lambda path: saved(path, {"normalized": "maybe"}), "framehaul.normalized=maybe: must be true or false"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    """One line with the file and the field, and no descriptor left open."""
    path = tmp_path / "clip.safetensors"
    make(path)
    open_files = psutil.Process().num_fds()
    with pytest.raises(LatentsFileError, match=message) as caught:
        LatentsFile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert psutil.Process().num_fds() == open_files


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    """It is an error, not a clip of zeros."""
    path = saved(tmp_path / "a.safetensors")
    with LatentsFile(path) as file:
        latents = iter(file)
        next(latents)
        os.truncate(path, path.stat().st_size - 10)
        with pytest.raises(LatentsFileError, match="it became shorter"):
            list(latents)


def test_a_disk_that_fails_is_named(tmp_path: Path) -> None:
    """A read error names the file."""
    file = LatentsFile(saved(tmp_path / "a.safetensors"))
    file.close()
    file.close()
    with pytest.raises(LatentsFileError, match=r"a\.safetensors: Bad file descriptor"):
        next(iter(file))
