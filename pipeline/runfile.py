"""A run's TOML: read it, apply overrides, validate, say what was meant where a key is not known; write it."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from pipeline import toml
from pipeline.columns import ColumnConfig
from pipeline.config import RunConfig, Settings
from pipeline.errors import ConfigError

T = TypeVar("T")


def load(path: str | Path, *, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a run's TOML, apply `a.b=c` overrides, validate. Raises ConfigError naming the key and its cure."""
    settings = read(path)
    for override in overrides:
        _override(settings, override)
    return parse(settings, where=str(path))


def read(path: str | Path) -> Settings:
    """A TOML's plain values. Raises ConfigError if it cannot be read."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such file", str(path), "write one with `latentpipe init --data FILE`") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"not readable as TOML: {error}", str(path)) from None


def parse(settings: Settings, *, where: str = "config") -> RunConfig:
    """Validate plain values as a RunConfig."""
    return validated(settings, RunConfig, where=where)


def text(config: RunConfig) -> str:
    """The TOML that `load` reads as this very config; what is left to its default is left out."""
    sections = {it.name: getattr(config, it.name) for it in fields(config) if it.name not in ("name", "workspace")}
    columns = {f"columns.{toml.key(name)}": it for name, it in sections.pop("columns").items()}
    lines = [toml.line("name", config.name), toml.line("workspace", config.workspace)]
    for name, section in {**sections, **columns}.items():
        plain = asdict(section)
        if told := [toml.line(it.name, plain[it.name]) for it in fields(section) if plain[it.name] != it.default]:
            lines += ["", f"[{name}]", *told]
    return "\n".join([*lines, ""])


def validated(settings: Settings, kind: type[T], *, where: str) -> T:
    """Validate plain values as a settings class. Raises ConfigError naming the key, the reason and what was meant."""
    _refuse_unknown(settings, kind, where)
    adapter: TypeAdapter[T] = _adapter(cast(Any, kind))
    try:
        return adapter.validate_python(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        got = f" (got {first['input']!r})" if isinstance(first["input"], str | int | float | bool) else ""
        raise ConfigError(f"{key}: {reason}{got}" if key else reason, where) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Slow to make."""
    return TypeAdapter(kind)


def _override(settings: Settings, override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override}: expected KEY=VALUE", cure="for example --set train.epochs=5")
    *sections, key = path.strip().split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise ConfigError(f"--set {override}: {section} is a value, not a section")
    settings[key] = _literal(text)


def _literal(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _refuse_unknown(settings: Settings, kind: type, where: str, path: str = "") -> None:
    known = [field.name for field in fields(kind)]
    hints = get_type_hints(kind)
    for key, value in settings.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            cure = f"did you mean {path}{close[0]}?" if close else f"known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key {path}{key}", where, cure)
        if key == "columns" and isinstance(value, dict):
            for name, column in value.items():
                if isinstance(column, dict):
                    _refuse_unknown(column, ColumnConfig, where, f"columns.{name}.")
        elif isinstance(value, dict):
            for section in filter(is_dataclass, (hints[key], *get_args(hints[key]))):
                _refuse_unknown(value, cast(type, section), where, f"{path}{key}.")
