"""A family of autoencoders over mixed columns: pure torch. Names are handed on lazily, so settings cost no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae.checkpoint import CheckpointError as CheckpointError
    from vae.checkpoint import load as load
    from vae.config import Column as Column
    from vae.config import ModelConfig as ModelConfig
    from vae.config import Network as Network
    from vae.config import Objective as Objective
    from vae.evaluate import judge as judge
    from vae.model import VAE as VAE
    from vae.model import Posterior as Posterior

_HOME = {
    "CheckpointError": "checkpoint",
    "load": "checkpoint",
    "Column": "config",
    "ModelConfig": "config",
    "Network": "config",
    "Objective": "config",
    "judge": "evaluate",
    "VAE": "model",
    "Posterior": "model",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vae' has no attribute {name!r}")
    return getattr(import_module(f"vae.{_HOME[name]}"), name)
