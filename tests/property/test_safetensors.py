"""Bytes of any kind, read as a safetensors file: an error of ours or a file within its bounds, nothing else."""

import json
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from framehaul.safetensors import PREFIX_BYTES, Header, MalformedHeader, header_bytes, parse_header

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F16", "BF16", "F32", "Q4"]),
        "shape": st.lists(st.integers(-1, 9), max_size=5),
        "data_offsets": st.lists(st.integers(-5, 400), min_size=1, max_size=3),
    }
)


def parse(content: bytes) -> Header | None:
    try:
        num_bytes = header_bytes(content[:PREFIX_BYTES], len(content))
        return parse_header(content[PREFIX_BYTES : PREFIX_BYTES + num_bytes], len(content))
    except MalformedHeader:
        return None


def check(content: bytes) -> None:
    header = parse(content)
    for tensor in header.tensors.values() if header else ():
        item_bytes = {"F16": 2, "BF16": 2, "F32": 4}[tensor.dtype]
        assert tensor.num_bytes == math.prod(tensor.shape) * item_bytes
        assert PREFIX_BYTES <= tensor.offset <= len(content) - tensor.num_bytes


@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    """No exception but ours."""
    check(content)


@given(st.dictionaries(st.text(max_size=8), ENTRY | JSON, max_size=4), st.binary(max_size=400))
def test_any_header(entries: object, rest: bytes) -> None:
    """Well-formed JSON with any content: what is accepted lies inside the file."""
    text = json.dumps(entries).encode()
    check(len(text).to_bytes(PREFIX_BYTES, "little") + text + rest)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 40))
def test_real_files_and_every_cut_of_them(shape: list[int], cut: int) -> None:
    """What safetensors writes is accepted; any cut is found."""
    content = save({"latents": np.zeros(shape, np.float16)}, {"a": "b"})
    header = parse(content)
    assert header is not None
    assert header.tensors["latents"].shape == tuple(shape)
    assert header.metadata == {"a": "b"}
    num_data_bytes = 2 * math.prod(shape)
    if 0 < cut <= num_data_bytes:
        assert parse(content[:-cut]) is None
