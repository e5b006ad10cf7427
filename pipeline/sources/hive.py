"""Partition keys in a path: `year=2024/country=C%C3%B4te/part.parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from pipeline.errors import DataError

Keys = tuple[tuple[str, str], ...]
NULL = "__HIVE_DEFAULT_PARTITION__"
"""The value of a key that was null."""
CURE = "name every folder below data.uri key=value, in one order; or set data.partitioning = 'none'"


def partition_keys(names: Sequence[str], *, where: str) -> list[Keys]:
    """Keys and decoded values of each name. Raises DataError, naming two, unless all have the same keys in order."""
    found = [_keys(name, where) for name in names]
    for name, keys in zip(names, found, strict=True):
        if _named(keys) != _named(found[0]):
            raise DataError(
                f"partition keys differ: {_shown(found[0])} in {names[0]!r}, {_shown(keys)} in {name!r}", where, CURE
            )
    return found


def _keys(name: str, where: str) -> Keys:
    pairs = [folder.partition("=") for folder in name.split("/")[:-1]]
    for key, equals, value in pairs:
        if not key or not equals:
            raise DataError(f"the folder {key + equals + value!r} of {name!r} is not key=value", where, CURE)
    try:
        keys = tuple((unquote(key, errors="strict"), unquote(value, errors="strict")) for key, _, value in pairs)
    except UnicodeDecodeError as error:
        raise DataError(f"the folders of {name!r} do not decode to UTF-8", where, "rename them") from error
    if len(dict(keys)) < len(keys):
        raise DataError(f"a key stands twice in {name!r}", where, CURE)
    return keys


def _named(keys: Keys) -> list[str]:
    return [key for key, _ in keys]


def _shown(keys: Keys) -> str:
    return ", ".join(_named(keys)) or "none"
