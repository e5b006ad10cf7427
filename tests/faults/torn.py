"""Row 9: files of ours cut short, and single bits of them flipped. `verify` must find every one.

Of latents (two golden snapshots: with and without reconstructions) and a dataset with a quarantine and a profile, each
file in turn, data, footer and manifest alike. Places are spread over the bytes, the same ones each time.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.cases import Case, Found
from harness import small_settings
from workspaces import BAD_ROW

from pipeline import ingest, runfile
from pipeline.errors import DataError
from pipeline.trust.verify import verify

ROW = 9
LENGTHS, FLIPS = 64, 256
GOLDEN = Path(__file__).parents[1] / "golden/latents-v1"
GOLDEN_RATIO = 0.6180339887498949
"""Its multiples, less their whole parts, fill the unit interval evenly: Weyl (1916)."""
DATASET = (
    *("_manifest.json", "_profile/part-00000.parquet", "_quarantine/part-00000.parquet"),
    *(f"part-00000-00{number}.parquet" for number in range(3)),
)
Spoil = Callable[[bytes, float], bytes]


def cases() -> list[Case]:
    """64 lengths and 256 bits, over all files in turn."""
    names = [(it.name, path) for it in sorted(GOLDEN.iterdir()) for path in _files(it / "v000001")]
    names += [("dataset", path) for path in DATASET]
    done = []
    for what, spoil, count in (("cut", cut, LENGTHS), ("flipped", flipped, FLIPS)):
        for index in range(count):
            kind, path = names[index % len(names)]
            share = (index + 1) * GOLDEN_RATIO % 1
            name = f"{kind}/{path} {what} at {share:.3f}"
            done.append(Case(ROW, name, partial(_found, kind, path, spoil, share)))
    return done


def cut(content: bytes, share: float) -> bytes:
    """Its first bytes, so large a share of them."""
    return content[: int(share * len(content))]


def flipped(content: bytes, share: float) -> bytes:
    """One bit the other way, so far in."""
    bit = int(share * 8 * len(content))
    spoiled = bytearray(content)
    spoiled[bit // 8] ^= 1 << bit % 8
    return bytes(spoiled)


def _found(kind: str, path: str, spoil: Spoil, share: float, folder: Path) -> Found:
    """Spoil one file of a copy, and ask `verify`, which must name that file."""
    snapshot = folder / "small" / "v000001"
    shutil.copytree(_whole(kind), snapshot)
    (snapshot / path).write_bytes(spoil((snapshot / path).read_bytes(), share))
    try:
        violations = verify(snapshot).violations
    except DataError as error:
        return Found(failed=f"an error instead of a finding: {error}")
    if not violations:
        return Found(torn=1)
    return Found() if path in {it.where for it in violations} else Found(failed=f"found elsewhere: {violations[0]}")


def _files(snapshot: Path) -> list[str]:
    return sorted(it.name for it in snapshot.iterdir())


@cache
def _whole(kind: str) -> Path:
    """A sound snapshot: one of the golden ones, or a dataset ingested now."""
    if kind != "dataset":
        return GOLDEN / kind / "v000001"
    folder = Path(tempfile.mkdtemp(prefix="torn-"))
    atexit.register(shutil.rmtree, folder)
    settings = small_settings(folder, data={"on_bad_row": "quarantine"})
    table = folder / "small.csv"
    table.write_text("\n".join([*table.read_text().splitlines()[:-1], BAD_ROW, ""]))
    return Path(ingest.ingest(runfile.parse(settings)).snapshot)


def main() -> None:
    """All cases, and how many were not found."""
    wrong = []
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            found = case.run(Path(folder))
        wrong += [(case.name, found)] if found != Found() else []
    print(f"{len(cases())} cases, {len(wrong)} not found", *wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
