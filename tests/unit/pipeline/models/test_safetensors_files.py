"""Where a model's weights lie, from names and headers alone."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from framehaul.safetensors import StoredTensor
from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models import safetensors_files as weights_files
from framehaul_pipeline.models.safetensors_files import (
    FILE_NAME,
    INDEX_NAME,
    check_sha256,
    find_weights,
    read_header,
    read_json,
)


def folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).write_bytes(b"")
    return path


def indexed(path: Path, content: object) -> Path:
    (path / INDEX_NAME).write_text(json.dumps(content))
    return path


def test_a_file_is_itself(tmp_path: Path) -> None:
    assert find_weights(tmp_path / "vae.safetensors") == (tmp_path / "vae.safetensors",)


def test_a_folder_has_one_file(tmp_path: Path) -> None:
    """By diffusers' name before others, else the only one there is."""
    path = folder(tmp_path, "vae.fp16.safetensors", "config.json", "old.bin")
    assert find_weights(path) == (path / "vae.fp16.safetensors",)
    folder(path, FILE_NAME)
    assert find_weights(path) == (path / FILE_NAME,)


def test_shards_are_found_through_their_index(tmp_path: Path) -> None:
    """Each once."""
    indexed(tmp_path, {"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}})
    assert find_weights(tmp_path) == (tmp_path / "1.safetensors", tmp_path / "2.safetensors")


@pytest.mark.parametrize(
    "name", ["../1.safetensors", "/1.safetensors", "a/1.safetensors", "..", "", "1.bin", 3, None, ["1.safetensors"]]
)
def test_an_index_names_plain_files_in_its_folder_alone(tmp_path: Path, name: object) -> None:
    indexed(tmp_path, {"weight_map": {"a": name}})
    with pytest.raises(InvalidInput, match=r"weight_map=.*: must be names of \.safetensors files in the same folder"):
        find_weights(tmp_path)


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_without_a_map_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(InvalidInput, match="no weight_map"):
        find_weights(indexed(tmp_path, content))


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
        "model.safetensors.index.json",
    ],
)
def test_a_variants_index_is_found_and_can_be_named(tmp_path: Path, name: str) -> None:
    """As `save_pretrained(variant=...)` calls it; the one that is meant is named where there are several."""
    path = folder(tmp_path, "1.safetensors", "2.safetensors")
    (path / name).write_text(json.dumps({"weight_map": {"a": "2.safetensors", "b": "1.safetensors"}}))
    shards = (path / "1.safetensors", path / "2.safetensors")
    assert find_weights(path) == find_weights(path / name) == shards
    other = "diffusion_pytorch_model.safetensors.index.bf16.json"
    (path / other).write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))
    assert find_weights(path / name) == shards
    with pytest.raises(InvalidInput, match=rf"{other}.*: must be one file, .* name the file meant"):
        find_weights(path)


def test_several_files_are_not_chosen_from(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"a\.safetensors, b\.safetensors: must be one file"):
        find_weights(folder(tmp_path, "a.safetensors", "b.safetensors"))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"none: must be a folder with {FILE_NAME}"):
        find_weights(folder(tmp_path, "config.json"))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl"])
def test_pickles_are_refused_with_the_way_out(tmp_path: Path, suffix: str) -> None:
    """Alone and in a folder, and never opened."""
    with pytest.raises(InvalidInput, match="pickles run code when they are read, so convert"):
        find_weights(tmp_path / f"vae{suffix}")
    with pytest.raises(InvalidInput, match=r"pickles alone: must be .* convert"):
        find_weights(folder(tmp_path, f"vae{suffix}"))


def test_json_objects_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything else is refused, and too large a file before it is parsed."""
    path = tmp_path / "config.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    for content, text in (("[1]", "list: must be a JSON object"), ("{", "no JSON"), ("[" * 100_000, "no JSON")):
        path.write_text(content)
        with pytest.raises(InvalidInput, match=text):
            read_json(path)
    with pytest.raises(InvalidInput, match=r"none\.json=No such file"):
        read_json(tmp_path / "none.json")
    monkeypatch.setattr(weights_files, "MAX_JSON_BYTES", 9)
    path.write_text('{"a": 100}')
    with pytest.raises(InvalidInput, match="over 9 bytes"):
        read_json(path)


def raw_header(path: Path, header: object, num_bytes: int) -> Path:
    raw = json.dumps(header).encode() if not isinstance(header, bytes) else header
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(num_bytes))
    return path


def entry(count: int, start: int = 0) -> dict[str, object]:
    return {"dtype": "F16", "shape": [count], "data_offsets": [start, start + 2 * count]}


def test_a_header_is_read_without_its_notes(tmp_path: Path) -> None:
    entry = {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}
    path = raw_header(tmp_path / "w.safetensors", {"a": entry, "__metadata__": {"format": "pt"}}, 12)
    start = path.stat().st_size - 12
    assert read_header(path) == {"a": StoredTensor("BF16", (2, 3), offset=start, num_bytes=12)}


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"\xff", r"w\.safetensors.*its header is not JSON"),
        ({"a": entry(4, 4)}, r"a at \[4, 12\]: must be tensors packed"),
        ({"a": entry(6), "b": entry(6)}, r"b at \[0, 12\]: must be tensors packed"),
        ({"a": entry(5)}, "12 bytes of tensors: must be 10 bytes"),
    ],
)
def test_a_header_that_is_wrong_is_refused(tmp_path: Path, header: object, text: str) -> None:
    """By the file's name; what else `parse_header` refuses is in its own tests."""
    with pytest.raises(InvalidInput, match=text):
        read_header(raw_header(tmp_path / "w.safetensors", header, 12))


def test_a_file_that_is_cut_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little"))
    with pytest.raises(InvalidInput, match="its header would have 1099511627776 bytes"):
        read_header(path)
    monkeypatch.setattr(weights_files, "MAX_FILE_BYTES", 7)
    with pytest.raises(InvalidInput, match="8 bytes: must be a safetensors file of up to 7 bytes"):
        read_header(path)
    with pytest.raises(InvalidInput, match="No such file"):
        read_header(tmp_path / "none")


@pytest.mark.parametrize("read", [read_header, read_json, lambda path: check_sha256(path, "0" * 64)])
def test_a_pipe_is_refused_before_anybody_waits_for_its_writer(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidInput, match="fifo=a pipe: must be a regular file"):
        read(tmp_path / "fifo")


def test_a_pin_is_held_against_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    check_sha256(path, right)
    with pytest.raises(InvalidInput, match=f"sha256 {right}: must be the file whose sha256 is 00"):
        check_sha256(path, "00")
    with pytest.raises(InvalidInput, match="No such file"):
        check_sha256(tmp_path / "none", right)
