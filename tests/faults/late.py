"""Acts on an encode: its processes are killed, or stopped and let go on when nobody waits for them any more."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
from faults.grounds import MODES
from faults.scene import Driver, Scene, signalled, told

Act = Callable[[Scene, random.Random], str]
"""Does the harm and what a user would do then; says what was wrong, if anything."""
Moment = Callable[[Scene, Driver], object]
RESUME = "The same command again goes on"


def ends(driver: Driver, *codes: int, says: tuple[str, ...] = ()) -> str:
    """What is wrong with how it ended."""
    ended = driver.ended()
    if ended.code not in codes:
        return f"exit {ended.code}, not {codes}: {ended.stderr}"
    missing = [word for word in says if word not in ended.stderr]
    return f"{missing or 'Traceback'} (not) in: {ended.stderr}" if missing or "Traceback" in ended.stderr else ""


def goes_on(scene: Scene) -> str:
    """The same command, run again after the fault, by the quickest means there are."""
    return ends(scene.start(mode=[*MODES][-1]), 0)


def cleared(scene: Scene) -> str:
    """A run that ended by itself leaves nothing staged behind, and no process."""
    _, alive = psutil.wait_procs(scene.family(), timeout=90)
    left = [str(path) for path in scene.staged()]
    return f"left behind: {left} {[told(it) for it in alive]}" if left or alive else ""


def worker_killed(scene: Scene, luck: random.Random) -> str:
    """SIGKILL in the midst of a file; the unit is done again in the same run."""
    driver = scene.start()
    driver.writer(luck.uniform(0, 0.9)).kill()
    return ends(driver, 0) or cleared(scene)


def driver_killed(moment: Callable[[random.Random], Moment]) -> Act:
    """SIGKILL at a moment that can be seen from outside; what it started may live on beside the next run."""

    def act(scene: Scene, luck: random.Random) -> str:
        driver, now = scene.start(), moment(luck)
        driver.until(lambda: now(scene, driver))
        driver.kill()
        return goes_on(scene)

    return act


def driver_killed_at(point: str) -> Act:
    """SIGKILL at a point of the commit."""

    def act(scene: Scene, luck: random.Random) -> str:
        return ends(scene.start(stop=(point, "SIGKILL")), -signal.SIGKILL) or goes_on(scene)

    return act


def begun(luck: random.Random) -> Moment:
    """The attempt's directory is there, or was a moment ago; nothing is staged."""
    since, delay = [0.0], luck.uniform(0, 1)

    def now(scene: Scene, driver: Driver) -> bool:
        since[0] = since[0] or (time.monotonic() if scene.attempts() else 0)
        return bool(since[0]) and (bool(scene.staged()) or time.monotonic() - since[0] > delay)

    return now


def amid(luck: random.Random) -> Moment:
    """A random part of the output is staged."""
    share = luck.uniform(0, 0.9)
    return lambda scene, driver: sum(scene.staged().values()) > share * scene.grounds.bytes


def pointed(luck: random.Random) -> Moment:
    """The new snapshot is there, and `_latest.json` says so."""

    def now(scene: Scene, driver: Driver) -> bool:
        with suppress(FileNotFoundError):
            return "v000002" in (scene.root / "_latest.json").read_text()
        return False

    return now


def worker_late(scene: Scene, luck: random.Random) -> str:
    """Stopped in the midst of a file until another run of the same key has committed."""
    driver = scene.start()
    late = driver.writer(luck.uniform(0, 0.9))
    if wrong := goes_on(scene):
        return wrong
    before = scene.tree()
    signalled([late], signal.SIGCONT)
    return ends(driver, 0) or cleared(scene) or ("" if scene.tree() == before else "the late attempt changed files")


def orphan_late(scene: Scene, luck: random.Random) -> str:
    """The same worker, all of whose run was killed meanwhile: nobody is left that could hold it back."""
    driver = scene.start()
    late = driver.writer(luck.uniform(0, 0.9))
    signalled([it for it in scene.family() if it != late], signal.SIGKILL)
    if wrong := goes_on(scene):
        return wrong
    before = scene.tree()
    signalled([late], signal.SIGCONT)
    psutil.wait_procs([late], timeout=20)
    return "" if scene.tree() == before else "the late attempt changed files"


def swept_late(scene: Scene, luck: random.Random) -> str:
    """The same worker, whose attempt was swept away while another run committed: it must not be made anew."""
    driver = scene.start()
    late = driver.writer(luck.uniform(0, 0.9))
    shutil.rmtree(scene.root / "_attempts")
    if wrong := goes_on(scene):
        return wrong
    before = scene.tree()
    signalled([late], signal.SIGCONT)
    return ends(driver, 0, 4) or cleared(scene) or ("" if scene.tree() == before else "the late attempt changed files")


def interrupted(number: signal.Signals, moment: Callable[[random.Random], Moment]) -> Act:
    """Ctrl-C or a supervisor's SIGTERM: the signal's exit code, nothing left, the way on said."""

    def act(scene: Scene, luck: random.Random) -> str:
        driver, now = scene.start(), moment(luck)
        driver.until(lambda: now(scene, driver))
        driver.process.send_signal(number)
        return _stopped(scene, driver, number) or scene.old_stands() or goes_on(scene)

    return act


def interrupted_at(number: signal.Signals, point: str, *, committed: bool) -> Act:
    """The same at a point of the commit."""

    def act(scene: Scene, luck: random.Random) -> str:
        wrong = _stopped(scene, scene.start(stop=(point, number.name)), number)
        return wrong or ("" if committed else scene.old_stands()) or goes_on(scene)

    return act


def _stopped(scene: Scene, driver: Driver, number: signal.Signals) -> str:
    return ends(driver, 128 + number, says=(RESUME,)) or cleared(scene)
