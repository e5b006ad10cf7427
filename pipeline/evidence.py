"""Evidence per row: the columns of a latents file beyond the codes, each by choice (`config.Encode`).

Whatever is drawn is drawn by the row's id, and every batch has the codec's shape: so a row's figures depend on no other
row, position, batch or worker, to the bit on one machine's CPU. A figure that is too large for float32, or that a wild
cell leaves undefined, is float32's largest: a row so far off is still a row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pipeline import draws, imputed
from pipeline.codec import SHAPE, Codec, Codes
from pipeline.config import Encode
from pipeline.errors import ConfigError, DataError
from pipeline.features.transforms import Observed, Values
from pipeline.imputed import floats
from pipeline.padded import Batch, Rows
from pipeline.reference import ELBO_DRAWS, Doubles, Reference, percentile, total
from vae.evidence import Witness
from vae.importance import parts

WORST: Final = 3
"""Columns that `worst` names."""
COMPARING: Final = {"error_percentile", "recon_error", "worst"}
"""What compares a row with its reconstruction."""
_NAMED: Final = pa.struct([pa.field(*it, nullable=False) for it in (("column", pa.string()), ("error", pa.float32()))])
_WORST: Final = pa.list_(pa.field("element", _NAMED, nullable=False))


class Evidence:
    """What the run asks of a model, row by row. A deterministic encoder has neither `elbo` nor `elbo_percentile`.

    Raises ConfigError for draws that a deterministic encoder has not, DataError if the model has no reference.
    """

    def __init__(self, codec: Codec, settings: Encode, *, go_on: Callable[[], None] = lambda: None) -> None:
        """`go_on` is called before each batch, and may raise."""
        self.codec, self.settings, self.go_on = codec, settings, go_on
        self.witness = Witness(codec.model)
        self.columns_of_model = [feature.name for feature in codec.features.layout]
        self.bounded = codec.model.stochastic
        try:
            settings.suit(codec.model.config.network)
        except ValueError as error:
            raise ConfigError(str(error), cure="set it to 0, or train with model.encoder = 'stochastic'") from None
        if settings.percentile or settings.worst:
            assert self.reference

    @cached_property
    def reference(self) -> Reference:
        """The model's training rows in figures."""
        try:
            return Reference.load(self.codec.directory)
        except DataError as error:
            cure = f"{error.cure}, or set encode.percentile = false and encode.worst = false"
            raise DataError(error.what, error.where, cure) from None

    def fields(self) -> list[pa.Field]:
        """The columns, in their order; only of columns without a value for some rows is null allowed."""
        settings, number = self.settings, pa.float32()
        asked: dict[str, tuple[bool, pa.DataType]] = {
            "z": (settings.draws > 0, _matrix(settings.draws, self.codec.latent)),
            "elbo": (settings.elbo and self.bounded, number),
            "nll": (settings.importance_samples > 0, number),
            "elbo_percentile": (settings.percentile and self.bounded, number),
            "error_percentile": (settings.percentile, number),
            "recon_error": (settings.errors, self._error_type()),
            "worst": (settings.worst, _WORST),
            "imputed": (settings.imputed > 0 and bool(imputed.gaps(self.codec)), imputed.struct(self.codec)),
        }
        nullable = ("error_percentile", "imputed")
        return [pa.field(name, kind, nullable=name in nullable) for name, (want, kind) in asked.items() if want]

    @torch.inference_mode()
    def columns(
        self,
        table: pa.Table,
        ids: pa.ChunkedArray,
        values: Values,
        observed: Observed,
        codes: Codes,
        *,
        guess: Values | None = None,
    ) -> dict[str, pa.Array]:
        """The columns of these rows, by name; `guess`, the reconstruction from `mu` as model values, saves a decoding.

        `values` and `observed`, `[row, feature]`, are what `Features.transform` makes of the table.
        """
        names = [field.name for field in self.fields()]
        if not names:
            return {}
        if guess is None and COMPARING & {*names}:
            guess = self.codec.guess(codes.mu)
        rows = Rows(values, observed, codes, draws.seeds(ids), guess)
        figures = self._figures(rows, names)
        found: dict[str, pa.Array] = {}
        for name in names:
            if name == "imputed":
                found[name] = imputed.impute(self.codec, self.witness, table, rows, draws=self.settings.imputed)
            else:
                found[name] = getattr(self, f"_{name}")(figures)
        return found

    def _figures(self, rows: Rows, names: list[str]) -> dict[str, npt.NDArray[Any]]:
        """What is computed by batches, `[row, ...]`."""
        batches = [self._of(batch, set(names)) for batch in rows.batches(self.codec.device)]
        return {name: np.concatenate([it[name] for it in batches])[: len(rows)] for name in batches[0]}

    def _of(self, batch: Batch, names: set[str]) -> dict[str, npt.NDArray[Any]]:
        self.go_on()
        witness, found = self.witness, dict[str, torch.Tensor]()
        given = batch.values, batch.observed, batch.posterior
        if "z" in names:
            found["z"] = batch.posterior.sample(batch.noise(range(self.settings.draws)))
        if names & {"elbo", "elbo_percentile"}:
            found["elbo"] = witness.elbo(*given, batch.noise(range(ELBO_DRAWS)))
        if "nll" in names:
            numbers = parts(self.settings.importance_samples, rows=SHAPE)
            found["nll"] = witness.nll(*given, (batch.noise(part) for part in numbers))
        figures = {name: tensor.cpu().numpy() for name, tensor in found.items()}
        if batch.guess is not None and names & COMPARING:
            errors = witness.errors(batch.values, batch.observed, batch.guess).cpu().numpy()
            figures |= {"errors": errors} if "recon_error" in names else {}
            figures |= self._compared(errors) if self.settings.percentile or self.settings.worst else {}
        return figures

    def _compared(self, errors: Doubles) -> dict[str, npt.NDArray[Any]]:
        """The total error of each row, and its largest standardised errors with their columns' numbers, largest first.

        Of columns with equal errors the first comes first; the error of a column that is not observed is -1.
        """
        standardised = self.reference.standardised(errors)
        found: dict[str, npt.NDArray[Any]] = {"total": total(standardised)}
        if self.settings.worst:
            ranked, rows = np.where(np.isnan(standardised), -1.0, standardised), np.arange(len(errors))
            columns, largest = [], []
            for _ in range(min(WORST, errors.shape[1])):
                columns.append(ranked.argmax(1))
                largest.append(ranked[rows, columns[-1]])
                ranked[rows, columns[-1]] = -1.0
            found |= {"worst": np.stack(columns, 1), "largest": np.stack(largest, 1)}
        return found

    def _z(self, figures: dict[str, Doubles]) -> pa.Array:
        kind = _matrix(self.settings.draws, self.codec.latent)
        inner = pa.FixedSizeListArray.from_arrays(pa.array(figures["z"].ravel()), type=kind.value_type)
        return pa.FixedSizeListArray.from_arrays(inner, type=kind)

    def _elbo(self, figures: dict[str, Doubles]) -> pa.Array:
        return floats(figures["elbo"])

    def _nll(self, figures: dict[str, Doubles]) -> pa.Array:
        return floats(figures["nll"])

    def _elbo_percentile(self, figures: dict[str, Doubles]) -> pa.Array:
        assert self.reference.elbo is not None
        return floats(percentile(self.reference.elbo, figures["elbo"]))

    def _error_percentile(self, figures: dict[str, Doubles]) -> pa.Array:
        return floats(percentile(self.reference.total_error, figures["total"]))

    def _recon_error(self, figures: dict[str, Doubles]) -> pa.Array:
        each = dict(zip(self.columns_of_model, figures["errors"].T, strict=True))
        kind = self._error_type()
        return pa.StructArray.from_arrays([floats(each[field.name]) for field in kind], fields=list(kind))

    def _worst(self, figures: dict[str, Doubles]) -> pa.Array:
        worst, largest = figures["worst"], figures["largest"]
        there = largest >= 0
        named = pa.array(self.columns_of_model).take(pa.array(worst[there]))
        entries = pa.StructArray.from_arrays([named, floats(largest[there])], fields=list(_NAMED))
        ends = np.concatenate([[0], there.sum(1).cumsum()]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), entries, type=_WORST)

    def _error_type(self) -> pa.StructType:
        return pa.struct([pa.field(feature.name, pa.float32()) for feature in self.codec.features.columns])


def _matrix(draws: int, latent: int) -> pa.DataType:
    """fixed_size_list<fixed_size_list<element: float not null>[latent]>[draws]."""
    draw = pa.list_(pa.field("element", pa.float32(), nullable=False), latent)
    return pa.list_(pa.field("element", draw, nullable=False), max(draws, 1))
