"""The safetensors reader and writer, with the safetensors library as the judge."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_compile.driver.safetensors_file import PAD_PREFIX, PAGE, Layout, LayoutWriter, read_float, read_header
from pangu_compile.errors import UserError


def write(path: Path, tensors: dict[str, np.ndarray]) -> Layout:
    names = {"float32": "F32", "int64": "I64", "bool": "BOOL", "float64": "F64"}
    layout = Layout((name, names[str(a.dtype)], a.shape) for name, a in tensors.items())
    with open(path, "wb") as stream:
        writer = LayoutWriter(layout, stream)
        for name, array in tensors.items():
            writer.add(name, array)
        writer.finish()
    return layout


def test_layout_is_page_aligned_and_valid_for_the_library(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "b.weight": rng.standard_normal((7, 5)).astype(np.float32),
        "a": np.arange(3, dtype=np.int64),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "flag": np.array([True, False]),
        "big": rng.standard_normal((1024,)).astype(np.float32),
        "last": rng.standard_normal((3,)),
    }
    layout = write(tmp_path / "w.safetensors", tensors)
    assert (tmp_path / "w.safetensors").stat().st_size == layout.total
    assert all(entry.offset % PAGE == 0 for entry in layout.entries.values())
    loaded = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    assert set(tensors) == {name for name in loaded if not name.startswith(PAD_PREFIX)}
    for name, array in tensors.items():
        np.testing.assert_array_equal(loaded[name], array)
        raw = (tmp_path / "w.safetensors").read_bytes()[layout.entries[name].offset :][: array.nbytes]
        assert raw == array.tobytes()
    own = read_header(tmp_path / "w.safetensors")
    assert {n: own[n].offset for n in tensors} == layout.offsets()


def test_writer_refuses_another_order_or_shape(tmp_path: Path) -> None:
    layout = Layout([("a", "F32", (2,)), ("b", "F32", (2,))])
    with open(tmp_path / "w", "wb") as stream:
        writer = LayoutWriter(layout, stream)
        with pytest.raises(ValueError, match="expected a"):
            writer.add("b", np.zeros(2, np.float32))
    with open(tmp_path / "w", "wb") as stream:
        writer = LayoutWriter(layout, stream)
        writer.add("a", np.zeros(2, np.float32))
        with pytest.raises(ValueError, match="not every tensor"):
            writer.finish()
    for names in (["a", "a"], ["__pad_0"]):
        with pytest.raises(ValueError, match="taken"):
            Layout([(name, "F32", (2,)) for name in names])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_read_is_exact_for_every_bit_pattern(tmp_path: Path, dtype: torch.dtype) -> None:
    if dtype == torch.float32:
        values = torch.randn(64, 1024)
    else:
        values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).reshape(64, 1024)
    safetensors.torch.save_file({"x": values}, tmp_path / "x.safetensors")
    info = read_header(tmp_path / "x.safetensors")["x"]
    expected = values.float().numpy()
    np.testing.assert_array_equal(read_float(info), expected)
    np.testing.assert_array_equal(read_float(info, 3, 9), expected[3:9])


def corrupt(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BROKEN = {
    "empty file": (b"", "truncated"),
    "short length": (b"\x01\x02", "truncated"),
    "length past the end": (corrupt({}, length=10**6), "truncated"),
    "huge length": (corrupt({}, length=2**63), "truncated"),
    "not json": (corrupt(b"{oops"), "corrupt header"),
    "not utf8": (corrupt(b"\xff\xfe{}"), "corrupt header"),
    "a list": (corrupt([1]), "not a JSON object"),
    "twice": (corrupt(b'{"a": {}, "a": {}}'), "appears twice"),
    "entry not object": (corrupt({"a": 3}), "tensor a is not an object"),
    "dtype": (corrupt({"a": {**F32, "dtype": "F31"}}, b"\0" * 8), "tensor a has the unknown dtype 'F31'"),
    "shape": (corrupt({"a": {**F32, "shape": [-2]}}, b"\0" * 8), "tensor a has the bad shape"),
    "shape bool": (corrupt({"a": {**F32, "shape": [True]}}, b"\0" * 8), "tensor a has the bad shape"),
    "offsets": (corrupt({"a": {**F32, "data_offsets": [0]}}, b"\0" * 8), "tensor a has the bad data_offsets"),
    "size": (corrupt({"a": {**F32, "shape": [3]}}, b"\0" * 8), "tensor a of shape"),
    "hole": (corrupt({"a": {**F32, "data_offsets": [4, 12]}}, b"\0" * 12), "tensor a leaves a hole"),
    "overlap": (corrupt({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, b"\0" * 12), "tensor b overlaps"),
    "data cut": (corrupt({"a": F32}, b"\0" * 7), "truncated: tensor a"),
    "trailing": (corrupt({"a": F32}, b"\0" * 9), "1 bytes follow"),
    "deep": (corrupt(b'{"a":' + b"[" * 100_000), "corrupt header"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_headers_name_file_and_tensor(tmp_path: Path, case: str) -> None:
    data, message = BROKEN[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_header(path)
    text = str(caught.value)
    assert str(path) in text and message in text and "\n" not in text


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 120), st.integers(1, 255))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, blob: bytes, at: int, flip: int):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    whole = bytearray(corrupt({"a": F32, "b": {"dtype": "BF16", "shape": [1], "data_offsets": [8, 10]}}, b"\0" * 10))
    whole[at % len(whole)] ^= flip
    for data in (blob, bytes(whole)):
        path.write_bytes(data)
        try:
            for info in read_header(path).values():
                read_float(info)
        except UserError as error:
            assert "\n" not in str(error)
