import os
import pickle
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


def values(*shape: int, dtype: Any = np.float16) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def write_bfloat16(path: Path, shape: list[int], bits: np.ndarray[Any, Any]) -> None:
    """numpy can't name bfloat16, so the file is made by hand."""
    header = f'{{"latents":{{"dtype":"BF16","shape":{shape},"data_offsets":[0,{bits.nbytes}]}}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_clip_is_read_latent_by_latent(tmp_path: Path, dtype: Any) -> None:
    """[T, C, h, w] as safetensors' own writer makes it."""
    latents = values(5, 4, 2, 3, dtype=dtype)
    save_file({"latents": latents, "other": values(7)}, tmp_path / "a.safetensors")
    with LatentsFile(tmp_path / "a.safetensors") as file:
        assert len(file) == file.num_latents == 5
        assert file.latents.shape == (4, 2, 3)
        assert np.array_equal(np.stack(list(file)), latents)
        assert np.array_equal(np.stack(list(file)), latents), "it can be read twice"


def test_diffusers_layout(tmp_path: Path) -> None:
    """[1, C, T, h, w] gives the same latents as [T, C, h, w]."""
    latents = values(5, 4, 2, 3)
    save_file({"latents": np.ascontiguousarray(latents.transpose(1, 0, 2, 3))[None]}, tmp_path / "a.safetensors")
    with LatentsFile(tmp_path / "a.safetensors") as file:
        assert np.array_equal(np.stack(list(file)), latents)


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
    notes = {"framehaul.model": "tiny", "framehaul.fps": "24000/1001", "framehaul.normalized": "True"}
    save_file({"z": values(1, 4, 2, 3)}, tmp_path / "a.safetensors", metadata=notes)
    with LatentsFile(str(tmp_path / "a.safetensors"), "z") as file:
        assert (file.model, file.fps, file.normalized) == ("tiny", Fraction(24000, 1001), True)


def test_a_rate_that_is_none_is_named_when_it_is_wanted(tmp_path: Path) -> None:
    """Pictures need none, and an option replaces it."""
    save_file({"latents": values(1, 4, 2, 3)}, tmp_path / "a.safetensors", metadata={"framehaul.fps": "fast"})
    with (
        LatentsFile(tmp_path / "a.safetensors") as file,
        pytest.raises(LatentsFileError, match=r"framehaul\.fps=fast: must be a number.*--fps"),
    ):
        _ = file.fps


LATENTS = values(5, 4, 2, 3)
LAYOUTS = {
    "TCHW": (LATENTS, LATENTS[None]),
    "CTHW": (LATENTS.transpose(1, 0, 2, 3), LATENTS.transpose(1, 0, 2, 3)[None]),
}


@pytest.mark.parametrize("by_note", [False, True])
@pytest.mark.parametrize("layout", ["TCHW", "CTHW"])
@pytest.mark.parametrize("batch", [0, 1])
def test_either_layout_gives_the_same_latents(tmp_path: Path, layout: str, batch: int, by_note: bool) -> None:
    """Told by the caller or by the file; also after a batch of one."""
    tensor = np.ascontiguousarray(LAYOUTS[layout][batch])
    notes = {"framehaul.layout": layout} if by_note else None
    save_file({"latents": tensor}, tmp_path / "a.safetensors", metadata=notes)
    with LatentsFile(tmp_path / "a.safetensors", layout=None if by_note else layout) as file:
        assert np.array_equal(np.stack(list(file)), LATENTS)
        assert np.array_equal(np.stack(list(file.read_from(3))), LATENTS[3:])


@pytest.mark.parametrize(
    ("shape", "read_as", "other"), [((4, 4, 2, 3), "TCHW", "CTHW"), ((1, 4, 4, 2, 3), "CTHW", "TCHW")]
)
def test_a_guess_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shape: tuple[int, ...], read_as: str, other: str
) -> None:
    """As many latents as channels could be either; whoever says which hears nothing."""
    save_file({"latents": values(*shape)}, tmp_path / "a.safetensors")
    LatentsFile(tmp_path / "a.safetensors", layout=other).close()
    assert not caplog.text
    LatentsFile(tmp_path / "a.safetensors").close()
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
    save_file(tensors, tmp_path / "a.safetensors")
    with LatentsFile(tmp_path / "a.safetensors") as file:
        assert np.array_equal(np.stack(list(file)), LATENTS)


def test_a_name_that_is_given_must_be_there(tmp_path: Path) -> None:
    """Nothing else is taken for it."""
    save_file({"latents": LATENTS}, tmp_path / "a.safetensors")
    with pytest.raises(LatentsFileError, match="tensor 'z' is missing: it holds 'latents'"):
        LatentsFile(tmp_path / "a.safetensors", "z")


def test_the_number_of_frames_is_noted(tmp_path: Path) -> None:
    save_file({"latents": LATENTS}, tmp_path / "a.safetensors", metadata={"framehaul.frames": "18"})
    with LatentsFile(tmp_path / "a.safetensors") as file:
        assert file.num_frames == 18


def test_a_file_without_notes(tmp_path: Path) -> None:
    """Nothing is assumed."""
    save_file({"latents": values(1, 4, 2, 3)}, tmp_path / "a.safetensors")
    with LatentsFile(tmp_path / "a.safetensors") as file:
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


def good_file(path: Path, **tensors: Any) -> Path:
    save_file(tensors or {"latents": values(5, 4, 2, 3)}, path)
    return path


def bad_missing(path: Path) -> None:
    """Nothing is there."""


def bad_directory(path: Path) -> None:
    path.mkdir()


def bad_fifo(path: Path) -> None:
    os.mkfifo(path)
    # A reader that opens it needs a writer to be there.
    bad_fifo.writer = os.open(path, os.O_RDWR)  # type: ignore[attr-defined]


def bad_empty(path: Path) -> None:
    path.write_bytes(b"")


def bad_truncated(path: Path) -> None:
    good_file(path)
    os.truncate(path, path.stat().st_size - 1)


def bad_truncated_header(path: Path) -> None:
    good_file(path)
    os.truncate(path, 20)


def bad_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"latents": [1.0] * 100}))


def bad_text(path: Path) -> None:
    path.write_text("these are not latents at all\n")


def bad_name(path: Path) -> None:
    good_file(path, z=values(5, 4, 2, 3), y=values(5, 4, 2, 3))


def bad_no_suited(path: Path) -> None:
    good_file(path, mask=values(5, 1, 2, 3), flat=values(5, 4), wide=values(5, 4, 2, 3, dtype=np.float64))


def bad_numpy(path: Path) -> None:
    with path.open("wb") as out:
        np.save(out, values(5, 4, 2, 3))


def bad_numpy_archive(path: Path) -> None:
    with path.open("wb") as out:
        np.savez(out, latents=values(5, 4, 2, 3))


def bad_frames(path: Path) -> None:
    save_file({"latents": values(5, 4, 2, 3)}, path, metadata={"framehaul.frames": "+10"})


def bad_frames_zero(path: Path) -> None:
    save_file({"latents": values(5, 4, 2, 3)}, path, metadata={"framehaul.frames": "0"})


def bad_layout(path: Path) -> None:
    save_file({"latents": values(5, 4, 2, 3)}, path, metadata={"framehaul.layout": "HWC"})


def bad_no_tensor(path: Path) -> None:
    path.write_bytes((2).to_bytes(8, "little") + b"{}")


def bad_rank(path: Path) -> None:
    good_file(path, latents=values(4, 2, 3))


def bad_batch(path: Path) -> None:
    good_file(path, latents=values(2, 4, 5, 2, 3))


def bad_size(path: Path) -> None:
    good_file(path, latents=values(0, 4, 2, 3))


def bad_dtype(path: Path) -> None:
    good_file(path, latents=values(5, 4, 2, 3, dtype=np.float64))


def bad_normalized(path: Path) -> None:
    save_file({"latents": values(5, 4, 2, 3)}, path, metadata={"framehaul.normalized": "maybe"})


@pytest.mark.parametrize("fps", ["fast", "90000/1"])
def test_an_impossible_rate_is_told_when_it_is_wanted(tmp_path: Path, fps: str) -> None:
    """Whoever gives another rate, or needs none, can play the file."""
    path = tmp_path / "a.safetensors"
    save_file({"latents": values(5, 4, 2, 3)}, path, metadata={"framehaul.fps": fps})
    with LatentsFile(path) as file:
        assert file.num_latents == 5
        with pytest.raises(
            LatentsFileError, match=rf"a\.safetensors: framehaul\.fps={fps}: must .*: say which with --fps"
        ):
            assert file.fps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bad_missing, "No such file or directory"),
        (bad_directory, "must be a regular file"),
        (bad_fifo, "must be a regular file"),
        (bad_empty, "0 bytes: too short for a safetensors file"),
        (bad_truncated, "cut off: tensor 'latents' ends at byte"),
        (bad_truncated_header, "cut off: its header ends at byte"),
        (bad_pickle, "a pickle or PyTorch file: must be safetensors"),
        (bad_text, "not a safetensors file"),
        (bad_name, "tensor 'latents' is missing: it holds 'y', 'z'"),
        (bad_no_tensor, "tensor 'latents' is missing: it holds none"),
        (bad_rank, r"has shape \[4, 2, 3\]: must be \[T, C, h, w\] or \[1, C, T, h, w\]"),
        (bad_batch, r"has shape \[2, 4, 5, 2, 3\]: must be"),
        (bad_size, "every size must be 1 or more"),
        (bad_dtype, "has dtype F64: must be F16, BF16 or F32"),
        (bad_no_suited, "tensor 'latents' is missing: it holds 'flat', 'mask', 'wide'"),
        (bad_numpy, r"a NumPy file \(\.npy\): must be safetensors"),
        (bad_numpy_archive, r"a zip archive.*\.npz: must be safetensors"),
        (bad_frames, r"framehaul.frames=\+10: must be a whole number from 1"),
        (bad_frames_zero, "framehaul.frames=0: must be a whole number from 1"),
        (bad_layout, "layout=HWC: must be TCHW or CTHW"),
        (bad_normalized, "framehaul.normalized=maybe: must be true or false"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, make: Any, message: str) -> None:
    """One line with the file and the field, and no descriptor left open."""
    path = tmp_path / "clip.safetensors"
    make(path)
    open_files = len(psutil.Process().open_files())
    try:
        with pytest.raises(LatentsFileError, match=message) as caught:
            LatentsFile(path)
    finally:
        if make is bad_fifo:
            os.close(bad_fifo.writer)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(psutil.Process().open_files()) == open_files


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    """It is an error, not a clip of zeros."""
    path = good_file(tmp_path / "a.safetensors")
    with LatentsFile(path) as file:
        latents = iter(file)
        next(latents)
        os.truncate(path, path.stat().st_size - 10)
        with pytest.raises(LatentsFileError, match="it became shorter"):
            list(latents)


def test_a_disk_that_fails_is_named(tmp_path: Path) -> None:
    """A read error names the file."""
    path = good_file(tmp_path / "a.safetensors")
    file = LatentsFile(path)
    file.close()
    file.close()
    with pytest.raises(LatentsFileError, match=r"a\.safetensors: Bad file descriptor"):
        next(iter(file))
