"""The principal components of codes: those of numpy's own decomposition, however the rows come."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from harness import small_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import latents, reduce, runfile, storage
from pipeline.components import Components
from pipeline.errors import ConfigError, DataError
from pipeline.neighbourhood import Neighbourhood, strengths
from pipeline.parts import write
from pipeline.records import Encoded, Reduced
from pipeline.snapshots import Snapshot

Codes = npt.NDArray[np.float32]
LAWS = settings(derandomize=True, deadline=None, max_examples=40)


def drawn(rows: int = 400, latent: int = 5, *, seed: int = 0) -> Codes:
    """Codes whose directions differ in variance, off centre and mixed."""
    generator = np.random.default_rng(seed)
    spread = generator.normal(size=(rows, latent)) * (4.0 / 1.7 ** np.arange(latent))
    mix, _ = np.linalg.qr(generator.normal(size=(latent, latent)))
    return (spread @ mix + generator.normal(size=latent)).astype(np.float32)


def chunked(codes: Codes, size: int) -> Iterator[Codes]:
    """So many rows at a time."""
    return (codes[start : start + size] for start in range(0, len(codes), size))


@LAWS
@given(st.integers(0, 1000), st.integers(2, 60), st.integers(1, 8), st.integers(1, 3))
def test_components_are_those_of_a_singular_value_decomposition(seed: int, rows: int, latent: int, dims: int) -> None:
    """All data at once, by another algorithm: same axes up to sign, same coordinates, same shares of variance."""
    codes, dims = drawn(rows + latent, latent, seed=seed), min(dims, latent)
    found = Components.fit(iter([codes]), dims)
    centred = codes.astype(np.float64) - codes.astype(np.float64).mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    assert found.explained == pytest.approx((singular**2 / (singular**2).sum())[:dims], rel=1e-6)
    gaps = np.abs(np.diff(singular[: dims + 1], append=0 if dims == latent else np.nan)) / singular[0]
    for i in range(dims):
        apart = min([gap for gap in (gaps[i], gaps[i - 1] if i else 1.0) if not np.isnan(gap)])
        if apart > 1e-3:
            assert abs(found.axes[:, i] @ axes[i]) == pytest.approx(1, abs=1e-6)
            assert np.abs(found.apply(codes)[:, i]) == pytest.approx(np.abs(centred @ axes[i]), abs=1e-3)


@LAWS
@given(st.integers(0, 1000), st.integers(1, 500))
def test_chunks_do_not_matter(seed: int, size: int) -> None:
    """However the rows are cut into batches and files."""
    codes = drawn(seed=seed)
    whole, cut = Components.fit(iter([codes]), 3), Components.fit(chunked(codes, size), 3)
    assert cut.mean == pytest.approx(whole.mean, rel=1e-12, abs=1e-14)
    assert cut.axes == pytest.approx(whole.axes, abs=1e-9)
    assert cut.explained == pytest.approx(whole.explained, rel=1e-10)


def test_the_largest_loading_is_positive() -> None:
    """Signs are a rule, not chance: mirrored codes have the same axes."""
    codes = drawn()
    found, mirrored = Components.fit(iter([codes]), 3), Components.fit(iter([-codes]), 3)
    largest = found.axes[np.abs(found.axes).argmax(axis=0), range(3)]
    assert (largest > 0).all()
    assert mirrored.axes == pytest.approx(found.axes, abs=1e-9)
    assert found.axes.T @ found.axes == pytest.approx(np.eye(3), abs=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_dims_is_the_number_of_coordinates(dims: int) -> None:
    """Fewer are the first of more."""
    codes = drawn()
    found, most = Components.fit(iter([codes]), dims), Components.fit(iter([codes]), 3)
    assert found.dims == dims
    assert found.apply(codes).shape == (400, dims)
    assert found.apply(codes) == pytest.approx(most.apply(codes)[:, :dims])
    assert list(found.explained) == sorted(found.explained, reverse=True)


@pytest.mark.parametrize("rows", [1, 50])
def test_constant_codes_have_coordinates_0(rows: int) -> None:
    """No variance: no division by zero, nothing explained."""
    codes = np.full((rows, 4), 2.5, np.float32)
    found = Components.fit(iter([codes]), 2)
    assert found.explained == (0.0, 0.0)
    assert not found.apply(codes).any()
    assert np.isfinite(found.axes).all()


def test_a_latent_of_one_dimension() -> None:
    """Its one component is itself, centred."""
    codes = drawn(latent=1)
    found = Components.fit(iter([codes]), 1)
    assert found.explained == pytest.approx((1.0,))
    assert found.apply(codes)[:, 0] == pytest.approx(codes[:, 0] - codes.mean(), abs=1e-5)


def encoded(folder: Path, codes: Codes, *, ids: list[Any], files: int = 3, key: str = "k", model: str = "m") -> Encoded:
    """Latents published as `encode` publishes them, without a model."""
    latent = codes.shape[1]
    root = folder / "workspace/latents/small"
    schema = latents.schema(id=pa.field("key", pa.string()), latent=latent, recon=None, passthrough=[])
    with storage.attempt(root, key) as directory:
        parts = []
        for number, rows in enumerate(np.array_split(np.arange(len(codes)), files)):
            mu = pa.FixedSizeListArray.from_arrays(pa.array(codes[rows].ravel()), type=latents.vector(latent))
            names, version = pa.array([ids[i] for i in rows]), pa.array(["1"] * len(rows))
            batch = pa.RecordBatch.from_arrays([names, mu, mu, version], schema=schema)
            parts.append(write(directory, f"part-{number:05d}.parquet", [batch], schema=schema))
        made = {"contract": latents.CONTRACT, "latent": latent, "id": "key", "model": {"digest": model}}
        facts = {"run_key": key, **made}
        snapshot = storage.publish(root, directory, parts, facts)
    return Encoded(
        snapshot=str(snapshot.directory),
        key=key,
        digest=snapshot.digest,
        rows=len(codes),
        quarantined=0,
        files=files,
        bytes=0,
        latent=latent,
        model="small/1",
        new=True,
    )


def test_reduce_writes_each_rows_coordinates_once(tmp_path: Path) -> None:
    """File by file: id and coordinates; the components are in the manifest; a second time is no work."""
    codes, ids = drawn(90), [f"row {i}" for i in range(90)]
    run, source = runfile.parse(small_settings(tmp_path)), encoded(tmp_path, codes, ids=ids)
    with pytest.raises(DataError, match=r"these latents were not reduced\n  cure: run `latentpipe reduce` first"):
        reduce.latest(run, source)
    record = reduce.reduce(run, source)
    assert (record.rows, record.dims, record.new) == (90, 2, True)
    snapshot = Snapshot(Path(record.snapshot))
    assert [it.name for it in snapshot.files] == [f"part-{i:05d}.parquet" for i in range(3)]
    table = latents.open_file(*snapshot.files).to_table()
    assert table.column("key").to_pylist() == ids
    assert table.schema.field("coords").type == latents.vector(2)
    expected = Components.fit(iter([codes]), 2)
    assert np.array(table.column("coords").to_pylist()) == pytest.approx(expected.apply(codes), abs=1e-5)
    pca = snapshot.manifest["pca"]
    by_hand = (codes - np.array(pca["mean"])) @ np.array(pca["axes"])
    assert by_hand == pytest.approx(expected.apply(codes), abs=1e-5)
    again = reduce.reduce(run, source)
    assert (again.new, again.digest) == (False, record.digest)
    assert reduce.latest(run, source).snapshot == record.snapshot


def test_reduce_keeps_no_more_dimensions_than_there_are(tmp_path: Path) -> None:
    """One latent dimension gives one coordinate, whatever was asked for."""
    run = runfile.parse(small_settings(tmp_path, reduce={"dims": 3}))
    assert reduce.reduce(run, encoded(tmp_path, drawn(30, 1), ids=[f"{i}" for i in range(30)])).dims == 1


def coords(record: Reduced, column: str = "coords") -> Codes:
    """Of every row, in the order of the files."""
    files = Snapshot(Path(record.snapshot)).files
    return np.array(latents.open_file(*files).to_table().column(column).to_pylist(), dtype=np.float32)


def names(rows: int) -> list[Any]:
    """Ids."""
    return [f"{i}" for i in range(rows)]


def test_later_latents_of_a_model_are_placed_by_its_reducer(tmp_path: Path) -> None:
    """The same axes, digest and place of a row, whatever came with it; said in the manifest; and again: no work."""
    run = runfile.parse(small_settings(tmp_path))
    first = reduce.reduce(run, encoded(tmp_path, drawn(90), ids=names(90)))
    source = encoded(tmp_path, np.concatenate([drawn(90), 5 + drawn(60, seed=1)]), ids=names(150), key="more")
    second = reduce.reduce(run, source)
    assert (first.applied, second.applied) == (False, True)
    assert second.fitted_on == first.fitted_on == str(tmp_path / "workspace/latents/small/v000001")
    assert coords(second)[:90].tobytes() == coords(first).tobytes()
    reductions = [Snapshot(Path(it.snapshot)).manifest["reduction"] for it in (first, second)]
    assert reductions[0]["digest"] == reductions[1]["digest"]
    again = reduce.reduce(run, source)
    assert (again.new, again.snapshot) == (False, second.snapshot)
    assert reduce.latest(run, source) == again


@pytest.mark.parametrize("change", ["model", "settings", "asked for"])
def test_a_reducer_is_fitted_anew_for(tmp_path: Path, change: str) -> None:
    """Another model, other settings, or because it was asked for: other axes, another digest."""
    run = runfile.parse(small_settings(tmp_path))
    first = reduce.reduce(run, encoded(tmp_path, drawn(90), ids=names(90)))
    other = {"settings": {"dims": 3}, "asked for": {"reuse": "fit"}}.get(change, {})
    source = encoded(tmp_path, drawn(90, seed=1), ids=names(90), key="l", model="n" if change == "model" else "m")
    second = reduce.reduce(runfile.parse(small_settings(tmp_path, reduce=other)), source)
    assert (second.applied, second.fitted_on) == (False, source.snapshot)
    assert Snapshot(Path(second.snapshot)).manifest["pca"] != Snapshot(Path(first.snapshot)).manifest["pca"]


def test_a_models_reducer_is_found_behind_another_models(tmp_path: Path) -> None:
    """The champion goes from m to n and back: what m's codes are placed by is what placed them first."""
    run = runfile.parse(small_settings(tmp_path))
    first = reduce.reduce(run, encoded(tmp_path, drawn(90), ids=names(90)))
    reduce.reduce(run, encoded(tmp_path, drawn(60, seed=1), ids=names(60), key="l", model="n"))
    source = encoded(tmp_path, np.concatenate([drawn(90), drawn(9, seed=2)]), ids=names(99), key="j")
    back = reduce.reduce(run, source)
    assert (back.applied, back.fitted_on) == (True, first.fitted_on)
    assert coords(back)[:90].tobytes() == coords(first).tobytes()
    assert reduce.latest(run, source) == reduce.reduce(run, source)


def test_going_back_to_older_latents_finds_their_coordinates(tmp_path: Path) -> None:
    """They stand, published anew as the newest."""
    run = runfile.parse(small_settings(tmp_path))
    older = encoded(tmp_path, drawn(90), ids=names(90))
    first = reduce.reduce(run, older)
    reduce.reduce(run, encoded(tmp_path, drawn(60, seed=1), ids=names(60), key="l"))
    back = reduce.reduce(run, older)
    assert (back.new, back.snapshot.endswith("v000003")) == (False, True)
    assert coords(back).tobytes() == coords(first).tobytes()


@pytest.fixture(scope="module")
def umap_learn() -> Any:
    """As plain Python: to compile it takes longer than its work on so few rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_DISABLE_JIT", "1")
        return pytest.importorskip("umap.umap_")


@pytest.mark.usefixtures("umap_learn")
def test_umap_keeps_neighbours_and_places_later_rows_among_them(tmp_path: Path) -> None:
    """Two clusters stay two; principal components lie beside; the kept sample, without umap-learn, places others."""
    generator = np.random.default_rng(0)
    centres = np.repeat([[0.0] * 5, [9.0] * 5], 40, axis=0)
    codes = (centres + generator.normal(size=(80, 5))).astype(np.float32)
    settings = {"method": "umap", "neighbours": 8, "sample": 100}
    run = runfile.parse(small_settings(tmp_path, reduce=settings))
    first = reduce.reduce(run, encoded(tmp_path, codes, ids=names(80)))
    placed = coords(first)
    assert coords(first, "pca") == pytest.approx(Components.fit(iter([codes]), 2).apply(codes), abs=1e-5)
    near = np.linalg.norm(placed[:, None] - placed, axis=-1).argsort(axis=1)[:, 1:6]
    assert ((near < 40) == (np.arange(80) < 40)[:, None]).all()
    fresh = (centres + generator.normal(size=(80, 5))).astype(np.float32)
    second = reduce.reduce(run, encoded(tmp_path, np.concatenate([fresh, codes]), ids=names(160), key="l"))
    among = np.linalg.norm(coords(second)[:80, None] - placed, axis=-1).argmin(axis=1)
    assert ((among < 40) == (np.arange(80) < 40)).all()
    assert coords(second)[80:].tobytes() == placed.tobytes()
    manifest = Snapshot(Path(second.snapshot)).manifest
    assert [it["path"] for it in manifest["reducer"]] == [reduce.NEIGHBOURHOOD]
    assert manifest["reduction"]["settings"] == {**settings, "dims": 2, "min_dist": 0.1, "seed": 0}


@pytest.mark.usefixtures("umap_learn")
@pytest.mark.parametrize("rows", [10, 15, 16])
def test_few_codes_are_all_neighbours_also_later(tmp_path: Path, rows: int) -> None:
    """As many as were asked for, or one fewer than there are: when it is fitted, and when it is read back."""
    run = runfile.parse(small_settings(tmp_path, reduce={"method": "umap", "neighbours": 15}))
    first = reduce.reduce(run, encoded(tmp_path, drawn(rows), ids=names(rows)))
    more = np.concatenate([drawn(rows), drawn(9, seed=1)])
    second = reduce.reduce(run, encoded(tmp_path, more, ids=names(rows + 9), key="l"))
    reductions = [Snapshot(Path(it.snapshot)).manifest["reduction"] for it in (first, second)]
    assert reductions[0]["digest"] == reductions[1]["digest"]
    assert coords(second)[:rows].tobytes() == coords(first).tobytes()


def test_a_row_has_one_place_whatever_is_placed_with_it() -> None:
    """To the bit: alone, in any order; inside what surrounds it; a code of the sample at its own place."""
    generator = np.random.default_rng(0)
    sample = generator.normal(size=(300, 4)).astype(np.float32)
    found = Neighbourhood(sample, sample[:, :2] * 3, 12)
    codes = generator.normal(size=(50, 4)).astype(np.float32)
    whole, order = found.apply(codes), generator.permutation(50)
    assert found.apply(codes[order]).tobytes() == whole[order].tobytes()
    assert b"".join(found.apply(codes[i : i + 1]).tobytes() for i in range(50)) == whole.tobytes()
    assert found.apply(sample).tobytes() == found.coords.tobytes()
    assert found.apply(codes * 1e6) == pytest.approx(found.apply(codes * 1e6).clip(-12, 12))
    assert found.apply(codes[:0]).shape == (0, 2)


def test_strengths_are_umaps(umap_learn: Any) -> None:
    """Up to the scale of each row those of umap-learn's own smooth k-nearest-neighbour search."""
    apart = np.sort(np.random.default_rng(0).gamma(3.0, size=(40, 15)), axis=1)
    sigma, rho = umap_learn.smooth_knn_dist(apart.astype(np.float32), 15.0, local_connectivity=0.0)
    assert not rho.any()
    theirs = np.exp(-apart / sigma[:, None])
    ours = strengths(apart)
    assert ours / ours.sum(1, keepdims=True) == pytest.approx(theirs / theirs.sum(1, keepdims=True), abs=2e-3)


def test_umap_needs_rows_that_differ_and_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are said before anything is written, with the cure."""
    run = runfile.parse(small_settings(tmp_path, reduce={"method": "umap"}))
    with pytest.raises(ConfigError, match=r"umap of 1 different codes\n  cure: set it to 'pca'"):
        reduce.reduce(run, encoded(tmp_path, np.ones((30, 5), np.float32), ids=names(30)))
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match=r"pip install 'latentpipe\[umap\]'"):
        reduce.reduce(run, encoded(tmp_path, drawn(30), ids=names(30), key="l"))
