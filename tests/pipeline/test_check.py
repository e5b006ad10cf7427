"""`latentpipe check`: a verdict on every file, whatever its bytes; no crash, no hang, no traceback."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import Finished, latentpipe
from pyarrow import feather

from pipeline.check import check

GOOD = "id,x,c\n" + "".join(f"{it},{it / 3:.3f},{'ab'[it % 2]}\n" for it in range(1000))


def verdicts(ended: Finished) -> dict[str, dict[str, Any]]:
    """By file name; the last line is the summary."""
    lines = [json.loads(line) for line in ended.stdout.splitlines()[:-1]]
    return {Path(it["path"]).name: it for it in lines}


def corpus(folder: Path) -> dict[str, tuple[str, str]]:
    """Files good and bad, and the outcome and rule expected of each."""
    dice = random.Random(0)
    table = pa.table({"id": range(1000), "x": [it / 3 for it in range(1000)], "v": [[1.0, 2.0]] * 1000})
    pq.write_table(table.drop_columns("v"), folder / "good.parquet", write_page_checksum=True)
    feather.write_feather(table.drop_columns("v"), folder / "good.arrow")
    whole = (folder / "good.parquet").read_bytes()
    contents: dict[str, tuple[bytes | str, str, str]] = {
        "good.csv": (GOOD, "accept", ""),
        "good.csv.gz": (gzip.compress(GOOD.encode()), "accept", ""),
        "good.jsonl": ("".join(json.dumps({"id": it, "x": it / 3}) + "\n" for it in range(100)), "accept", ""),
        "one-ragged.csv": (GOOD + "5,6\n", "quarantine", "wrong number of cells"),
        "many-ragged.csv": (GOOD + "5,6\n" * 20, "refuse", "quarantine limit"),
        "empty.csv": ("", "refuse", "no rows"),
        "header.csv": ("a,b\n", "refuse", "no rows"),
        "twice.csv": ("a,a\n1,2\n", "refuse", "unreadable"),
        "latin.csv": ("name\n" + "caf\xe9\n" * 3, "refuse", "unreadable"),
        "bomb.csv.gz": (gzip.compress(b"a\n" + b"0\n" * 100_000_000, 9), "refuse", "unreadable"),
        "torn.csv.gz": (gzip.compress(GOOD.encode())[:-40], "refuse", "unreadable"),
        "torn.parquet": (whole[: len(whole) // 2], "refuse", "unreadable"),
        "flipped.parquet": (whole[:300] + bytes([whole[300] ^ 1]) + whole[301:], "refuse", ""),
        "empty.parquet": ("", "refuse", ""),
        "noise.parquet": (dice.randbytes(5000), "refuse", "unreadable"),
        "noise.arrow": (dice.randbytes(5000), "refuse", "unreadable"),
        "noise.jsonl": (dice.randbytes(5000), "refuse", ""),
        "noise.npy": (dice.randbytes(5000), "refuse", "unreadable"),
        "parquet.csv": (whole, "refuse", "unreadable"),
        "unknown.xyz": ("hello", "refuse", "unreadable"),
    }
    for name, (content, _, _) in contents.items():
        (folder / name).write_bytes(content.encode("latin-1") if isinstance(content, str) else content)
    pq.write_table(pa.table({"s": [{"a": 1}]}), folder / "nested.parquet")
    os.mkfifo(folder / "pipe.csv")
    (folder / "link.csv").symlink_to("/etc/passwd")
    (folder / "loop.csv").symlink_to("loop.csv")
    expected = {name: (outcome, rule) for name, (_, outcome, rule) in contents.items()}
    places = dict.fromkeys(("pipe.csv", "link.csv", "loop.csv"), ("refuse", "place"))
    good = {"good.parquet": ("accept", ""), "good.arrow": ("accept", ""), "nested.parquet": ("refuse", "contract")}
    return {**expected, **places, **good}


def test_every_file_gets_its_verdict(tmp_path: Path) -> None:
    """One line each, in order, with all fields; a summary; exit 3; nothing on stderr."""
    folder = tmp_path / "in"
    folder.mkdir()
    expected = corpus(folder)
    ended = latentpipe("check", folder, cwd=tmp_path)
    found = verdicts(ended)
    assert sorted(found) == list(found) == sorted(expected)
    wrong = {
        name: (it["outcome"], it["rule"], it["detail"])
        for name, it in found.items()
        if it["outcome"] != expected[name][0] or expected[name][1] not in ("", it["rule"])
    }
    assert wrong == {}
    assert all(list(it) == ["path", "outcome", "rows", "quarantined", "rule", "detail"] for it in found.values())
    assert all(it["detail"] for it in found.values() if it["outcome"] != "accept")
    assert (ended.code, ended.stderr) == (3, "")
    assert (found["good.csv"]["rows"], found["one-ragged.csv"]["quarantined"]) == (1000, 1)


def test_all_accepted_is_exit_0(tmp_path: Path) -> None:
    """Accepted, or quarantined within the limit."""
    (tmp_path / "a.csv").write_text(GOOD)
    (tmp_path / "b.csv").write_text(GOOD + "1\n")
    ended = latentpipe("check", "a.csv", "b.csv", cwd=tmp_path)
    assert [it["outcome"] for it in verdicts(ended).values()] == ["accept", "quarantine"]
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1] == "2 files, 1 accept, 1 quarantine, 0 refuse, 2,001 rows, 1 quarantined"


def test_real_tables_and_odd_ones(tmp_path: Path, shared_data: Path) -> None:
    """Adult, housing and the odd files of other projects: all judged; the real ones accepted, corrupt ones refused."""
    ended = latentpipe("check", shared_data, cwd=tmp_path)
    found = verdicts(ended)
    assert ended.stderr == ""
    assert {found[name]["outcome"] for name in ("adult-train.csv", "housing.csv")} == {"accept"}
    assert found["housing.csv"]["rows"] == 20_640
    spectrum = [it for it in found.values() if "csv-spectrum" in it["path"]]
    assert len(spectrum) == 11
    assert {it["outcome"] for it in spectrum} == {"accept"}
    assert all(it["detail"] for it in found.values() if it["outcome"] == "refuse")


def test_a_contract_is_enforced(tmp_path: Path) -> None:
    """With a run's TOML, files are judged by its columns and its limits."""
    (tmp_path / "run.toml").write_text(
        'name = "t"\n[data]\nuri = "a.csv"\nquarantine_limit = 0.5\n[columns]\nid = { type = "int64", role = "id" }\n'
        'x = { type = "float64", likelihood = "gaussian", range = [0, 100] }\n'
    )
    (tmp_path / "a.csv").write_text(GOOD)
    (tmp_path / "b.csv").write_text("id,y\n1,2\n")
    ended = latentpipe("check", "--contract", "run.toml", "a.csv", "b.csv", cwd=tmp_path)
    found = verdicts(ended)
    assert (found["a.csv"]["outcome"], found["a.csv"]["rule"]) == ("refuse", "quarantine limit")
    assert found["a.csv"]["quarantined"] == 699
    assert (found["b.csv"]["outcome"], found["b.csv"]["rule"]) == ("refuse", "contract")
    assert "column 'x' is missing" in found["b.csv"]["detail"]


@pytest.mark.parametrize(
    ("harm", "rule"),
    [("os.kill(os.getpid(), 11)", "crash"), ("bytearray(4 << 30)", "memory"), ("time.sleep(60)", "time")],
)
def test_what_harms_a_parser_is_the_files_verdict(tmp_path: Path, harm: str, rule: str) -> None:
    """A crash, too much memory, no end: a refusal of that file alone; the next one is judged."""
    script = f"""
import os, sys, time
from pipeline import check
judge = check.judge
def harmed(path, config):
    if path == "bad.csv":
        {harm}
    return judge(path, config)
check.judge = harmed
for it in check.check(["bad.csv", "good.csv"], time_s=3):
    print(it.outcome, it.rule, flush=True)
"""
    import subprocess
    import sys

    (tmp_path / "good.csv").write_text(GOOD)
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.stdout.splitlines() == [f"refuse {rule}", "accept "], ended.stderr


def test_bytes_of_any_kind_end_as_a_verdict(tmp_path: Path) -> None:
    """Files of every format with bytes flipped, cut and inserted: each has an outcome, none a crash."""
    dice = random.Random(1)
    pq.write_table(pa.table({"id": range(50), "s": [f"text {it}" for it in range(50)]}), tmp_path / "seed.parquet")
    feather.write_feather(pa.table({"id": range(50)}), tmp_path / "seed.arrow", compression="uncompressed")
    (tmp_path / "seed.csv").write_text(GOOD[:600])
    (tmp_path / "seed.jsonl").write_text('{"a": 1, "b": "x"}\n' * 20)
    paths = []
    for seed in list(tmp_path.iterdir()):
        whole = seed.read_bytes()
        for number in range(12):
            harmed = bytearray(whole)
            for _ in range(dice.randint(1, 8)):
                harmed[dice.randrange(len(harmed))] = dice.randrange(256)
            path = tmp_path / f"{number}{seed.suffix}"
            path.write_bytes(harmed[: dice.randint(1, len(harmed))] if number % 3 == 0 else harmed)
            paths.append(str(path))
    ended = latentpipe("check", *paths, cwd=tmp_path)
    lines = [json.loads(line) for line in ended.stdout.splitlines()[:-1]]
    assert [it["path"] for it in lines] == paths
    assert {it["outcome"] for it in lines} <= {"accept", "quarantine", "refuse"}
    assert not [it for it in lines if it["rule"] == "crash" and "exit" in it["detail"]]
    assert ended.stderr == ""


def test_checking_needs_neither_ray_nor_torch() -> None:
    """What it imports is light: neither is loaded."""
    import subprocess
    import sys

    code = "import sys, pipeline.check; print([it for it in ('ray', 'torch', 'mlflow') if it in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    """A verdict like any other."""
    (verdict,) = check([str(tmp_path / "nowhere.csv")])
    assert (verdict.outcome, verdict.rule) == ("refuse", "place")
