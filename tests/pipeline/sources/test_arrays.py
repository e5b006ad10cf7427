"""numpy arrays: rows along the first axis, and never a pickle."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from sourced import blocks, listed, rows, written

from pipeline import sources
from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.sources import arrays, limits


def stored(folder: Path, array: npt.NDArray[Any], name: str = "x.npy") -> Path:
    """The array as numpy stores it."""
    np.save(folder / name, array)
    return folder / name


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.array([1, 2], np.int8), "int8"),
        (np.array([1, 2], ">u4"), "uint32"),
        (np.array([0.5, np.nan], ">f8"), "double"),
        (np.array([0.5, 1], np.float16), "halffloat"),
        (np.array([True, False]), "bool"),
        (np.array(["é", "ab"]), "string"),
        (np.array([b"x", b"ab"]), "binary"),
        (np.array(["2020-01-01", "NaT"], "datetime64[s]"), "timestamp[s]"),
        (np.array([[1, 2], [3, 4]], np.uint8), "fixed_size_list<item: uint8>[2]"),
        (np.arange(12.0).reshape(2, 3, 2), "fixed_size_list<item: double>[6]"),
        (np.asfortranarray(np.arange(12.0).reshape(2, 3, 2)), "fixed_size_list<item: double>[6]"),
    ],
)
def test_the_first_axis_counts_the_rows(tmp_path: Path, array: npt.NDArray[Any], kind: str) -> None:
    """One axis makes cells, more make vectors in C order; numbers keep their type."""
    (block,) = blocks(stored(tmp_path, array))
    assert str(block.batch.schema.field("values").type) == kind
    expected = pa.array(array.astype(array.dtype.newbyteorder("=")).ravel())
    found = block.batch.column("values")
    assert str(found.flatten() if array.ndim > 1 else found) == str(expected)  # NaN is NaN


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_is_cut_by_rows(tmp_path: Path, order: Any) -> None:
    """Into pieces and blocks, which come one after the other."""
    array = np.asarray(np.random.default_rng(0).random((400_000, 3)), order=order)
    data = Data(uri="", unit_mb=3)
    cut = sources.cut(listed(stored(tmp_path, array)), data)
    assert cut.rows == 400_000
    assert len(cut.pieces) == 4
    found = [block.batch.column("values").flatten() for piece in cut.pieces for block in sources.blocks(piece, data)]
    assert np.array_equal(np.concatenate([it.to_numpy() for it in found]).reshape(-1, 3), array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_has_a_column_for_each_array(tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, in one piece and many blocks; those that are not wanted are not read."""
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 100)
    vectors = np.asfortranarray(np.arange(20.0).reshape(10, 2))
    save(tmp_path / "x.npz", a=np.arange(10), b=vectors)
    path = tmp_path / "x.npz"
    assert sources.names(listed(path), Data(uri="")) == ["a", "b"]
    found = blocks(path)
    assert [len(it) for it in found] == [4, 4, 2]
    assert [row for it in found for row in it.batch.to_pylist()] == [
        {"a": i, "b": row} for i, row in enumerate(vectors.tolist())
    ]
    assert rows(path, types={"a": pa.int8()}) == [{"a": i} for i in range(10)]


def npz(folder: Path, members: dict[str, bytes], **settings: Any) -> Path:
    """An archive of these members."""
    with zipfile.ZipFile(folder / "x.npz", "w", **settings) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return folder / "x.npz"


def test_what_is_no_column_is_named(tmp_path: Path) -> None:
    """Objects, records, complex numbers, no rows, other members, other lengths."""
    ab = {name: stored(tmp_path, np.arange(size)).read_bytes() for name, size in (("a.npy", 2), ("b.npy", 3))}
    cases = [
        (stored(tmp_path, np.array([{}]), "o.npy"), "array 'values' holds Python objects, which are never read"),
        (stored(tmp_path, np.array([(1, 2.0)], "i4,f8"), "r.npy"), "array 'values' holds void96, which are never read"),
        (stored(tmp_path, np.array([1j]), "c.npy"), "array 'values' holds complex128, which are never read"),
        (stored(tmp_path, np.array(1), "s.npy"), "array 'values' of shape () has no rows"),
        (stored(tmp_path, np.ones((3, 0)), "e.npy"), "array 'values' of shape (3, 0) has no rows"),
        (npz(tmp_path, ab), "arrays 'a' and 'b' have 2 and 3 rows\n  cure: mend the file"),
    ]
    for path, words in cases:
        with pytest.raises(DataError) as caught:
            rows(path)
        assert str(caught.value).startswith(f"{path.name}: {words}"), caught.value


def test_other_members_of_an_archive_are_refused(tmp_path: Path) -> None:
    """As are other ways to pack them."""
    array = stored(tmp_path, np.arange(2)).read_bytes()
    with pytest.raises(
        DataError, match=r"x.npz: member 'a.npy' is not an array as numpy stores it\n  cure: use np.savez"
    ):
        rows(npz(tmp_path, {"a.npy": array}, compression=zipfile.ZIP_LZMA))
    with pytest.raises(DataError, match=r"member 'b.txt' is not an array as numpy stores it"):
        rows(npz(tmp_path, {"a.npy": array, "b.txt": b""}))


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    """Or that claims a shape it does not have."""
    content = stored(tmp_path, np.arange(1000)).read_bytes()
    for some, reason in (
        (content[:-1], "cannot be read: array 'values' ends early"),
        (content[:100], "array 'values' has a broken header\n  cure: save it again"),
        (content.replace(b"(1000,)", b"(9**9,)"), "array 'values' has a broken header"),
    ):
        with pytest.raises(DataError, match=f"x.npy: {reason}"):
            rows(written(tmp_path, some, "x.npy"))


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the headers claim."""
    monkeypatch.setattr(limits, "SMALL", 1000)
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(1_000_000))
    with pytest.raises(DataError, match=r"bytes become 8,000,000 at least\n  cure: a bomb, or raise data.max_ratio"):
        rows(tmp_path / "x.npz", max_ratio=100)
