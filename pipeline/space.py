"""The search space of a tuning: the configs of its trials, drawn by its seed. Trains nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any, Final

from pipeline.config import Range, RunConfig
from pipeline.errors import ConfigError

SEARCHED: Final = ("latent", "width", "depth", "learning_rate", "beta", "batch_rows")
DRAWS: Final = 20
"""Per trial, until the space is taken for exhausted."""
Space = Mapping[str, tuple[float, ...] | Range]


def trials(config: RunConfig) -> list[RunConfig]:
    """The run as it is, and then `tune.trials` - 1 others, all different; fewer if the space has no more.

    Raises ConfigError for a setting that the run's model or objective does not take.
    """
    space = listed(config) or around(config)
    _check(config, space)
    random = Random(config.tune.seed)  # noqa: S311 (nothing secret)
    found = {_identity(config): config}
    for _ in range(DRAWS * config.tune.trials):
        if len(found) == config.tune.trials:
            break
        varied = vary(config, {name: _draw(values, random) for name, values in space.items()})
        found.setdefault(_identity(varied), varied)
    return list(found.values())


def listed(config: RunConfig) -> Space:
    """What [tune] lists."""
    return {name: values for name in SEARCHED if (values := getattr(config.tune, name))}


def around(config: RunConfig) -> Space:
    """Half and twice the run's own numbers, a layer less or more, a fourth to four times its learning rate.

    Not beta: what trials are judged by is what beta = 1 trains for.
    """
    model, rate = config.model, config.train.learning_rate
    depth = len(model.hidden)
    layers = {"width": _doubled(model.hidden[0]), "depth": _some(depth - 1, depth, depth + 1)} if depth else {}
    return {
        "latent": tuple(it for it in _doubled(model.latent) if it <= 4096),
        **layers,
        "learning_rate": Range(low=rate / 4, high=min(1.0, 4 * rate)),
        "batch_rows": _doubled(config.train.batch_rows),
    }


def vary(config: RunConfig, draw: Mapping[str, Any]) -> RunConfig:
    """The run with other settings, by their names in [tune]. Raises ValueError if they do not go together."""
    model, objective, train = config.model, config.objective, config.train
    hidden = tuple(draw.get("hidden", model.hidden))
    if "width" in draw or "depth" in draw:
        hidden = (draw.get("width", max(hidden, default=0)),) * draw.get("depth", len(hidden))
    return replace(
        config,
        model=replace(model, latent=draw.get("latent", model.latent), hidden=hidden),
        objective=replace(objective, beta=draw.get("beta", objective.beta)),
        train=replace(train, **{name: draw[name] for name in ("learning_rate", "batch_rows") if name in draw}),
    )


def _identity(config: RunConfig) -> tuple[Any, ...]:
    return config.model, config.objective, config.train


def _check(config: RunConfig, space: Space) -> None:
    """Raise ConfigError if a listed value cannot be tried."""
    if not config.model.hidden and ("width" in space) != ("depth" in space):
        raise ConfigError("model.hidden = []: there is no layer to vary", "[tune]", "list both width and depth")
    for beta in config.tune.beta:
        try:
            vary(config, {"beta": beta})
        except ValueError as error:
            raise ConfigError(str(error), "tune.beta", "leave it out, or another [objective] or encoder") from None


def _draw(values: tuple[float, ...] | Range, random: Random) -> float:
    if isinstance(values, tuple):
        return random.choice(values)
    drawn = math.exp(random.uniform(math.log(values.low), math.log(values.high)))
    return float(f"{drawn:.3g}")


def _doubled(number: int) -> tuple[int, ...]:
    return _some(number // 2, number, number * 2)


def _some(*numbers: int) -> tuple[int, ...]:
    return tuple(number for number in numbers if number > 0)
