import json
from typing import Any

import pytest

from framehaul.safetensors import MAX_HEADER_BYTES, Header, MalformedHeader, StoredTensor, header_bytes, parse_header


def header(**entries: Any) -> bytes:
    return json.dumps(entries).encode()


def test_a_header_gives_tensors_and_notes() -> None:
    """Offsets are counted from the file's start."""
    text = header(__metadata__={"a": "b"}, latents={"dtype": "F16", "shape": [2, 3], "data_offsets": [4, 16]})
    assert parse_header(text, 8 + len(text) + 16) == Header(
        {"latents": StoredTensor("F16", (2, 3), 8 + len(text) + 4, 12)}, {"a": "b"}
    )


def test_the_length_comes_first() -> None:
    """Eight bytes, little-endian."""
    assert header_bytes((5).to_bytes(8, "little"), 13) == 5


@pytest.mark.parametrize(
    ("prefix", "file_bytes", "message"),
    [
        (
            b"PK\x03\x04abcd",
            5000,
            r"a zip archive, such as a PyTorch file \(.pt\) or NumPy's .npz: must be safetensors",
        ),
        (b"\x93NUMPY\x01\x00", 5000, r"a NumPy file \(.npy\): must be safetensors"),
        (b"1234567", None, "7 bytes: too short"),
        (b"\x80\x04\x95abcde", 5000, "a pickle or PyTorch file"),
        (b"version https", 130, r"a Git LFS pointer: the file itself wasn't fetched \(git lfs pull\)"),
        (b"GGUF\3\0\0\0", 5000, "a GGUF file: must be safetensors"),
        (b"<!DOCTYPE html>", 5000, "a web page, not the file"),
        (b"", 0, "0 bytes: too short"),
        (b"1234567", 7, "7 bytes: too short"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), 1 << 30, "not a safetensors file"),
        ((6).to_bytes(8, "little"), 13, "cut off: its header ends at byte 14, the file at 13"),
    ],
)
def test_other_files_are_told_apart(prefix: bytes, file_bytes: int | None, message: str) -> None:
    """The text says what the file is, or where it ends."""
    with pytest.raises(MalformedHeader, match=message):
        header_bytes(prefix, file_bytes)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12], **changes}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"x": 1, "x": 2}', "a name stands in it twice"),
        (header(__metadata__=[]), "__metadata__ is not a table of strings"),
        (header(__metadata__={"a": 1}), "__metadata__ is not a table of strings"),
        (header(x=1), "tensor 'x' needs dtype, shape and data_offsets"),
        (header(x={"dtype": "F16", "shape": [1]}), "tensor 'x' needs"),
        (header(x=tensor(data_offsets=[0])), "tensor 'x' needs"),
        (header(x=tensor(shape="6")), "tensor 'x' needs"),
        (header(x=tensor(dtype="F12")), "tensor 'x' has dtype F12: unknown"),
        (header(x=tensor(shape=[2, -3])), r"tensor 'x' has shape \[2, -3\]: must be whole numbers"),
        (header(x=tensor(shape=[2, 3.0])), r"must be whole numbers"),
        (header(x=tensor(shape=[True, 6])), r"must be whole numbers"),
        (header(x=tensor(data_offsets=[0, 11])), r"lies at 0..11: F16 \[2, 3\] has 12 bytes"),
        (header(x=tensor(data_offsets=[-2, 10])), "lies at -2..10"),
        (header(x=tensor(data_offsets=[100, 112])), "cut off: tensor 'x' ends at byte"),
    ],
)
def test_a_wrong_header_is_named(text: bytes, message: str) -> None:
    """No offset, size or type is believed unchecked."""
    with pytest.raises(MalformedHeader, match=message):
        parse_header(text, 8 + len(text) + 12)


@pytest.mark.parametrize(
    ("dtype", "num_bytes"), [("F4", 3), ("F6_E2M3", 5), ("F8_E5M2FNUZ", 6), ("F8_E4M3FNUZ", 6), ("C64", 48)]
)
def test_a_tensor_of_a_rare_type_is_no_fault_of_its_files(dtype: str, num_bytes: int) -> None:
    """Source: `Dtype` in safetensors 0.6, safetensors/src/tensor.rs."""
    text = header(x=tensor(dtype=dtype, data_offsets=[0, num_bytes]))
    assert parse_header(text, 8 + len(text) + num_bytes).tensors["x"].num_bytes == num_bytes


def test_a_pipe_has_no_length_to_be_held_against() -> None:
    """Its header is believed as far as it goes; what comes is counted when it comes."""
    text = header(x=tensor(data_offsets=[100, 112]))
    assert header_bytes(len(text).to_bytes(8, "little"), None) == len(text)
    assert parse_header(text, None).tensors["x"].offset == 8 + len(text) + 100
