"""The bad-input table, end to end: places and partitions, what must never run, and files that others found."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from outcomes import (
    NUMBER,
    Case,
    arrow,
    aside,
    column,
    kept,
    parameters,
    parquet,
    passthrough,
    published,
    put,
    refused,
    table,
)

from pipeline import agree, ingest, runfile
from pipeline.errors import DataError
from pipeline.init import init

KEYED = {**column(NUMBER), "k": passthrough("string", nullable=True)}
HIVE = "\n  cure: name every folder below data.uri key=value, in one order; or set data.partitioning = 'none'"
SPECIAL = "not a plain file\n  cure: name a file, a folder or a glob"
ODD_NAME = "such a name is not read\n  cure: rename it: text, without control characters"
LINK = "a link, and links are not followed\n  cure: remove it, or set data.follow_symlinks = true"
RENAME = "cure: rename it under [columns]"


def row(number: int) -> str:
    """A file of one row."""
    return f"id,x\n{number},1\n"


def link(target: str) -> Any:
    """What makes a link."""
    return lambda path: path.is_symlink() or path.symlink_to(target)


def special(path: Path) -> None:
    """A FIFO, a socket or a device, by its name."""
    if path.exists():
        return
    if path.stem == "fifo":
        os.mkfifo(path)
    elif path.stem == "device":
        os.mknod(path, 0o20600, os.makedev(1, 5))
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))


def named_in_latin(path: Path) -> None:
    """A file whose name is no UTF-8."""
    Path(os.fsdecode(os.fsencode(path.parent) + b"/\xe9.csv")).write_text(row(2))


def hive(files: dict[str, Any], rows: list[Any]) -> Case:
    """Published, with the keys of the path."""
    return kept(files, rows, KEYED, partitioning="hive")


def no_hive(message: str, *paths: str) -> Case:
    """Refused for its paths."""
    files = {path: row(number) for number, path in enumerate(paths)}
    return refused(files, message, KEYED, partitioning="hive")


TABLE: dict[str, dict[str, Case]] = {
    "partition keys": {
        "a column": hive({"k=a/t.csv": row(1), "k=b/t.csv": row(2)}, [(1, 1.0, "a"), (2, 1.0, "b")]),
        "encoded": hive(
            {"k=C%C3%B4te%20d%2FIvoire/t.csv": row(1), "k=a=b/t.csv": row(2), "k=..%2F../t.csv": row(3)},
            [(3, 1.0, "../.."), (1, 1.0, "Côte d/Ivoire"), (2, 1.0, "a=b")],
        ),
        "null": hive(
            {"k=__HIVE_DEFAULT_PARTITION__/t.csv": row(1), "k=b/t.csv": row(2)}, [(1, 1.0, None), (2, 1.0, "b")]
        ),
        "of a type": aside(
            {"k=1/t.csv": row(1), "k=x/t.csv": row(2)},
            [("2", "k=x/t.csv", 0, "k", "not int64", "x")],
            [(1, 1.0, 1)],
            {**column(NUMBER), "k": passthrough("int64")},
            partitioning="hive",
        ),
        "= missing": no_hive("{}: the folder 'b' of 'b/t.csv' is not key=value" + HIVE, "k=a/t.csv", "b/t.csv"),
        "other keys": no_hive(
            "{}: partition keys differ: j in 'j=a/t.csv', k in 'k=a/t.csv'" + HIVE, "k=a/t.csv", "j=a/t.csv"
        ),
        "mixed depth": no_hive(
            "{}: partition keys differ: k, j in 'k=a/j=1/t.csv', k in 'k=a/t.csv'" + HIVE, "k=a/t.csv", "k=a/j=1/t.csv"
        ),
        "twice": no_hive("{}: a key stands twice in 'k=a/k=b/t.csv'" + HIVE, "k=a/k=b/t.csv"),
        "no UTF-8": no_hive(
            "{}: the folders of 'k=%FF/t.csv' do not decode to UTF-8\n  cure: rename them", "k=%FF/t.csv"
        ),
        "in the file too": refused(
            {"k=a/t.csv": "id,x,k\n1,1,a\n"},
            "k=a/t.csv: two columns are named 'k', one of them by its path\n"
            "  cure: rename one of them, or set data.partitioning = 'none'",
            KEYED,
            partitioning="hive",
        ),
        "not declared": refused(
            {"k=a/t.csv": row(1)},
            f"k=a/t.csv: column 'k' is missing; found: id, x\n  {RENAME}",
            KEYED,
        ),
    },
    "places": {
        "link": refused({"a.csv": row(1), "b.csv": link("a.csv")}, f"{{}}/b.csv: {LINK}"),
        "link, followed": kept({"a.csv": row(1), "b.csv": link("a.csv")}, [(1, 1.0)], follow_symlinks=True),
        "link out of the folder": refused(
            {"a.csv": row(1), "b.csv": link("/etc/passwd")},
            "{}/b.csv: a link that leads out of the source's folder\n  cure: remove it, or copy what it leads to",
            follow_symlinks=True,
        ),
        "loop of links": refused(
            {"a.csv": row(1), "b.csv": link("b.csv")},
            "{}/b.csv: a link that leads nowhere: Too many levels of symbolic links\n  cure: remove or mend it",
            follow_symlinks=True,
        ),
        "loop of folders": kept({"a.csv": row(1), "d/e": link("..")}, [(1, 1.0)], follow_symlinks=True),
        "FIFO": refused({"a.csv": row(1), "fifo.csv": special}, "{}/fifo.csv: a FIFO, " + SPECIAL),
        "socket": refused({"a.csv": row(1), "socket.csv": special}, "{}/socket.csv: a socket, " + SPECIAL),
        "device": refused({"a.csv": row(1)}, "/dev/zero: a device, " + SPECIAL, uri="/dev/zero"),
        "hidden": kept(
            {
                "a.csv": row(1),
                ".b.csv": row(2),
                "_c.csv": row(3),
                "_d/e.csv": row(4),
                ".git/f.csv": row(5),
                "_SUCCESS": "",
            },
            [(1, 1.0)],
        ),
        "newline in a name": refused({"a\nb.csv": row(1)}, rf"'a\nb.csv': {ODD_NAME}"),
        "NUL in a name": refused({"a.csv": row(1)}, rf"'in/\x00': {ODD_NAME}", uri="in/\0"),
        "no UTF-8 in a name": refused({"a.csv": row(1), "b.csv": named_in_latin}, rf"'\udce9.csv': {ODD_NAME}"),
        "tilde": kept({"~/a.csv": row(1), "~root/b.csv": row(2)}, [(1, 1.0), (2, 1.0)]),
    },
    "globs, unicode, long names": {
        "of magic": kept({"a[1]*?.csv": row(1), "a1.csv": row(2)}, [(2, 1.0), (1, 1.0)]),
        "of quotes": kept({"a'b\"c;--.csv": row(1), "$(touch x) `y`.csv": row(2), "%20 &#.csv": row(3)}, None),
        "NFC and NFD": kept({"caf\u00e9.csv": row(1), "cafe\u0301.csv": row(2)}, [(2, 1.0), (1, 1.0)]),
        "long": kept({"n" * 251 + ".csv": row(1), "/".join(["d" * 200] * 10) + "/t.csv": row(2)}, None),
    },
}


@pytest.mark.parametrize("case", parameters(TABLE))
def test_bad_places(tmp_path: Path, case: Case) -> None:
    """End as the table says: only plain files below the folder are read, whatever they are called."""
    case.judge(tmp_path)


@pytest.mark.parametrize("name", ["a[1]*?.csv", "a'b\"c;--.csv", "$(touch x).csv", "é\u0301 😀.csv"])
def test_a_name_is_a_name(tmp_path: Path, name: str) -> None:
    """Named alone, a file is found under whatever name it has."""
    put(tmp_path / "in" / "a1.csv", row(1))
    kept({name: row(2)}, [(2, 1.0)], uri=str(tmp_path / "in" / name)).judge(tmp_path)


class Bomb:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


EXTENSIONS = {
    "ray.data.arrow_pickled_object": pa.large_binary(),
    "ray.data.arrow_tensor": pa.binary(),
    "arrow.py_extension_type": pa.binary(),
}


@pytest.mark.parametrize("local_mb", [4096, 0], ids=["threads", "Ray Data"])
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_pickled_extension_types(tmp_path: Path, ray_up: None, extension: str, local_mb: int) -> None:
    """Columns that ask to be unpickled stay bytes or are refused, here and in an actor, where Ray knows some of them.

    The meta-test: unpickled, they run.
    """
    ran = tmp_path / "ran"
    pickled = pickle.dumps(Bomb(ran))
    pickle.loads(pickled).close()
    ran.unlink()
    facts = {"ARROW:extension:name": extension, "ARROW:extension:metadata": pickled}
    cells = pa.field("x", EXTENSIONS[extension], metadata=facts)
    schema = pa.schema([("id", pa.int64()), cells])
    for number, file in enumerate((parquet, arrow)):
        asking = pa.table([pa.array([number]), pa.array([pickled], cells.type)], schema=schema)
        put(tmp_path / f"in/{number}.{file.__name__}", file(asking))
    settings = {"name": "t", "workspace": str(tmp_path / "w"), "data": {"uri": str(tmp_path / "in")}}
    config = runfile.parse({**settings, "columns": column("binary"), "ingest": {"local_mb": local_mb}})
    if extension == "ray.data.arrow_tensor":
        with pytest.raises(DataError, match=r"^(0\.parquet|1\.arrow): cannot be read: "):
            ingest.ingest(config)
    else:
        assert published(ingest.ingest(config)) == [(0, pickled), (1, pickled)]
    assert not ran.exists()


def test_differing_files_without_a_contract(tmp_path: Path) -> None:
    """Where none is declared, both files are named."""
    put(tmp_path / "in/a.parquet", table(1))
    put(tmp_path / "in/b.parquet", table("1"))
    config = runfile.parse({"name": "t", "workspace": str(tmp_path / "w"), "data": {"uri": str(tmp_path / "in")}})
    with pytest.raises(DataError) as caught:
        ingest.ingest(agree.agree(config))
    assert str(caught.value) == (
        "b.parquet: column 'x' is string, but int64 in a.parquet\n"
        "  cure: convert one of them, or read them as two tables"
    )


def test_rows_set_aside_change_no_other(tmp_path: Path) -> None:
    """The files published are, to the bit, those of the table without the bad rows."""
    good = [f"{it},{it / 3}" for it in range(1000)]
    bad = ["1000,bad", "1001,1,2", ",1", "1002,nan", "x,1"]
    contents = []
    for name, lines in (("clean", good), ("dirty", [*bad, *good[:500], *bad, *good[500:]])):
        put(tmp_path / name / "t.csv", "id,x\n" + "\n".join(lines))
        data = {"uri": str(tmp_path / name), "on_bad_row": "quarantine"}
        settings = {"name": name, "workspace": str(tmp_path / "w"), "data": data, "columns": column(NUMBER)}
        record = ingest.ingest(runfile.parse(settings))
        contents.append(record.content)
    assert record.quarantined == 2 * len(bad)
    assert contents[0] == contents[1]


HARMFUL = """
import gzip, io, resource, sys
from pathlib import Path
import numpy, pyarrow, pyarrow.parquet
from pipeline import ingest, runfile
from pipeline.errors import DataError
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, resource.RLIM_INFINITY))
for path in sorted(folder.glob("in/*")):
    columns = {"id": {"type": "int64", "role": "id"}, "x": {"type": "string", "role": "passthrough"}}
    settings = {"name": "t", "workspace": str(folder / "w"), "data": {"uri": str(path)}, "columns": columns}
    try:
        ingest.ingest(runfile.parse(settings))
    except DataError as error:
        print(str(error).splitlines()[0])
"""


def test_memory_is_bounded(tmp_path: Path) -> None:
    """In a process of 3 GB: what would take more is refused by name, and the next file is read."""
    million = "a" * 1_000_000
    encoded = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), [million])
    put(tmp_path / "in/a.parquet", parquet(pa.table({"id": range(20_000), "x": encoded})))
    put(tmp_path / "in/b.csv", "id,x\n1," + "a" * 20_000_000)
    command = [sys.executable, "-c", HARMFUL, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert [line for line in ended.stdout.splitlines() if ": " in line] == [
        "a.parquet: its rows take too much: malloc of size 20000000000 failed",
        "b.csv: no record ends within 8,388,608 bytes after byte 5",
    ], ended.stderr


@pytest.mark.parametrize("name", ["adult-train.csv", "adult-test.csv", "housing.csv"])
def test_real_tables(tmp_path: Path, shared_data: Path, name: str) -> None:
    """By the settings that `init` writes for them, every row is kept."""
    settings = tomllib.loads(init(str(shared_data / name), name="real"))
    record = ingest.ingest(runfile.parse({**settings, "workspace": str(tmp_path)}))
    assert record.rows_in == record.rows == len(published(record))


def test_odd_files(tmp_path: Path, shared_data: Path) -> None:
    """Each file that broke somebody's reader ends as rows, all of them, or as a DataError that names it."""
    outcomes = {}
    for path in sorted((shared_data / "odd").rglob("*.*")):
        data = {"uri": str(path)}
        config = runfile.parse({"name": "t", "workspace": str(tmp_path / path.name), "data": data})
        try:
            record = ingest.ingest(agree.agree(config))
        except DataError as error:
            outcomes[path] = f"{path.name}: " in str(error)
        else:
            assert record.rows_in == record.rows == len(published(record))
    assert set(outcomes.values()) == {True}
    assert {path.suffix for path in outcomes} == {".json", ".parquet"}
    assert len(outcomes) == 8
