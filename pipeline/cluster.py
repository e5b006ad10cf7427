"""`ray_session`: the only way to Ray. Embedded in this process by default; a running cluster by its address."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import Cluster
from pipeline.errors import InfrastructureError

QUIET = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # of Ray Tune, which prints in spite of verbose = 0
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
KNOCK_S = 10
LOGGERS = ("ray", "ray._private", "ray.data", "ray.train", "ray.tune", "ray.serve")


@contextmanager
def ray_session(cluster: Cluster, *, cpus: int = 2, log: Path) -> Iterator[None]:
    """Ray is up inside; what it says goes to the file `log`.

    A session inside a session shares the outer one. Without an address the embedded Ray gets `cpus` for workers, and
    some for Ray Data beside them; they are bookkeeping, not cores. Signal handlers are as before throughout: Ray's own
    would undo Prefect's cancellation. Raises InfrastructureError if the cluster does not answer.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    import ray

    if ray.is_initialized():
        yield
        return
    with _logged_to(log):
        _start(cluster, cpus)
        try:
            yield
        finally:
            with _signals_kept():
                ray.shutdown()


def _start(cluster: Cluster, cpus: int) -> None:
    import ray

    try:
        _knock(cluster.address)
        with _signals_kept():
            ray.init(**_options(cluster, cpus))
    except (OSError, RuntimeError, ValueError) as error:
        where = cluster.address or "embedded Ray"
        raise InfrastructureError(f"Ray does not answer: {error}", where, "see `latentpipe doctor`") from error


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at host:port; Ray itself would go on trying for minutes."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def own_error(error: BaseException, *, cure: str) -> InfrastructureError:
    """Ray's error as ours, in a line."""
    words = str(error).strip().splitlines() or [type(error).__name__]
    return InfrastructureError(f"Ray failed: {words[-1].strip()}", cure=f"{cure}; logs/ray.log has the whole story")


def _options(cluster: Cluster, cpus: int) -> dict[str, object]:
    options: dict[str, object] = {"log_to_driver": False, "configure_logging": False}
    if cluster.address:
        return {**options, "address": cluster.address}
    return {
        **options,
        "address": "local",
        "num_cpus": cluster.num_cpus or max(os.cpu_count() or 1, cpus + 2),
        "include_dashboard": False,
        "object_store_memory": cluster.object_store_mb << 20,
        "_system_config": {"task_events_report_interval_ms": 0},  # it feeds dashboards; cancelled, it waits 5 s
    }


@contextmanager
def _signals_kept() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def follow(name: str) -> None:
    """Let a part of Ray's that hung its own handlers when it was imported say what it says where Ray does."""
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = logging.getLogger("ray").handlers, False
    logger.setLevel(logging.INFO)


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """What Ray's Python side says goes to a file, and not to the console."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before = [(logger, logger.handlers, logger.propagate) for logger in map(logging.getLogger, LOGGERS)]
    for logger, _, _ in before:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, handlers, propagate in before:
            for added in logger.handlers:  # ours, and those that Ray hung beside it
                added.close()
            logger.handlers, logger.propagate = handlers, propagate
