"""Queries: a real PostgreSQL and SQLite to Parquet, typed by their values."""

from __future__ import annotations

import datetime
import gc
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import PostgreSQL

from pipeline.config import Data
from pipeline.errors import ConfigError, DataError, InfrastructureError
from pipeline.sources import database
from pipeline.sources.file import File
from pipeline.sources.listing import files


def fetched(workspace: Path, uri: str, query: str) -> File:
    """The one file of a query."""
    (file,) = files(Data(uri=uri, query=query), workspace=workspace)
    return file


def table(workspace: Path, uri: str, query: str) -> pa.Table:
    """Its rows."""
    return pq.read_table(fetched(workspace, uri, query).uri, page_checksum_verification=True)


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """A database of one table."""
    with closing(sqlite3.connect(tmp_path / "a b.db")) as connection:
        connection.execute("create table t (id integer, x)")
        connection.executemany("insert into t values (?, ?)", [(1, "one"), (2, None), (3, "three")])
        connection.commit()
    return f"sqlite:///{tmp_path}/a b.db"


TYPES = """
select * from (values
  (1::int2, 1::int4, 9223372036854775807, 0.1::float4, 'NaN'::float8, true, 'é''":x %s 100%', 'c'::char(3),
   1.50::numeric(6,2), 123456789012345678901234567890.5, date '2024-02-29', timestamp '2024-01-01 12:30:00.123456',
   timestamptz '2024-07-01 12:00+02', time '23:59:59.5', interval '1 day 2 hours', '\\x00ff'::bytea,
   'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, '{"a": [1, null]}'::json, '7'::jsonb, array[1, 2.5]::float8[], null),
  (null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
   null, null)
) as t(i2, i4, i8, f4, f8, b, s, c, n, big, d, ts, tz, tm, iv, by, u, j, jb, v, nothing)
"""


def test_types_of_postgresql(tmp_path: Path, postgres: PostgreSQL) -> None:
    """Every common type, a value and a null; moments in UTC, JSON as it was written."""
    rows = table(tmp_path, postgres.uri, TYPES)
    kinds = {field.name: str(field.type) for field in rows.schema}
    first, second = rows.to_pylist()
    assert set(second.values()) == {None}
    assert first.pop("f8") != first.pop("f4") == 0.1
    assert {name: (kinds[name], value) for name, value in first.items()} == {
        "i2": ("int64", 1),
        "i4": ("int64", 1),
        "i8": ("int64", 2**63 - 1),
        "b": ("bool", True),
        "s": ("string", "é'\":x %s 100%"),
        "c": ("string", "c  "),
        "n": ("decimal128(3, 2)", Decimal("1.50")),
        "big": ("decimal128(31, 1)", Decimal("123456789012345678901234567890.5")),
        "d": ("date32[day]", datetime.date(2024, 2, 29)),
        "ts": ("timestamp[us]", datetime.datetime(2024, 1, 1, 12, 30, 0, 123456)),
        "tz": ("timestamp[us, tz=UTC]", datetime.datetime(2024, 7, 1, 10, tzinfo=datetime.UTC)),
        "tm": ("time64[us]", datetime.time(23, 59, 59, 500000)),
        "iv": ("duration[us]", datetime.timedelta(days=1, hours=2)),
        "by": ("binary", b"\x00\xff"),
        "u": ("string", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        "j": ("string", '{"a": [1, null]}'),
        "jb": ("string", "7"),
        "v": ("list<element: double>", [1.0, 2.5]),
        "nothing": ("null", None),
    }


def test_types_of_sqlite(tmp_path: Path, sqlite: str) -> None:
    """What the cells are; the columns have no types of their own."""
    rows = table(tmp_path, sqlite, "select id, x, id * 0.5 as half, x'00ff' as raw, null as none from t order by id")
    assert rows.schema.types == [pa.int64(), pa.string(), pa.float64(), pa.binary(), pa.null()]
    assert rows.to_pylist()[1] == {"id": 2, "x": None, "half": 1.0, "raw": b"\x00\xff", "none": None}


def test_a_type_may_be_found_late(tmp_path: Path, postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows first all missing, decimals that grow, more than are fetched at once: nothing is lost or rounded."""
    monkeypatch.setattr(database, "ROWS", 100)
    query = """select i, case when i >= 250 then 'x' || i end as late, nullif(i, i) as never,
               case when i < 150 then 0.125 when i < 950 then i * 1.5 else 12345678.5 end as grows
               from generate_series(0, 999) as i order by i"""
    rows = table(tmp_path, postgres.uri, query)
    assert rows.schema.types == [pa.int64(), pa.string(), pa.null(), pa.decimal128(11, 3)]
    assert rows["i"].to_pylist() == list(range(1000))
    assert rows["late"].to_pylist() == [f"x{i}" if i >= 250 else None for i in range(1000)]
    decimals = [
        Decimal("0.125") if i < 150 else Decimal(i) * 3 / 2 if i < 950 else Decimal("12345678.5") for i in range(1000)
    ]
    assert rows["grows"].to_pylist() == decimals


def test_no_rows_are_a_table_all_the_same(tmp_path: Path, postgres: PostgreSQL) -> None:
    """The file has the columns; whether none is enough is decided elsewhere."""
    rows = table(tmp_path, postgres.uri, "select 1 as a, 'x' as b where false")
    assert (rows.num_rows, rows.column_names) == (0, ["a", "b"])


def test_memory_is_bounded(tmp_path: Path, postgres: PostgreSQL) -> None:
    """The rows stream through a cursor of the server: 200 MB of text in a process that may grow by half of that."""
    script = f"""
import re
from pathlib import Path
from pipeline.config import Data
from pipeline.sources.database import fetched
def fetch(rows):
    query = f"select i, repeat('x', 2000) || i as text from generate_series(1, {{rows}}) as i"
    fetched(Data(uri={postgres.uri!r}, query=query), folder=Path({str(tmp_path)!r}))
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
few = fetch(1000)
print(fetch(100_000) - few)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert int(ended.stdout) < 100


def test_a_result_is_named_by_query_and_content(tmp_path: Path, sqlite: str) -> None:
    """The same rows give the same file, untouched; other rows another one, of the same name in manifests."""
    query = "select * from t order by id"
    first = fetched(tmp_path, sqlite, query)
    assert fetched(tmp_path, sqlite, query) == first
    with closing(sqlite3.connect(sqlite.removeprefix("sqlite:///"))) as connection:
        connection.execute("update t set x = 'two' where id = 2")
        connection.commit()
    second = fetched(tmp_path, sqlite, query)
    assert (first.name, first.mark) != (second.name, second.mark)
    assert first.name == second.name == f"{Path(first.uri).name[:18]}.parquet"
    assert fetched(tmp_path, sqlite, "select 1").name != first.name
    now, before = time.time(), time.time() - 2 * database.KEPT_S
    os.utime(first.uri, (now, before))
    fetched(tmp_path, sqlite, query)
    assert Path(first.uri).exists(), "a run may still be reading it"
    for uri in (first.uri, second.uri):
        os.utime(uri, (before, before))
    kept = fetched(tmp_path, sqlite, query)
    assert (kept.uri, kept.mark) == (second.uri, second.mark)
    assert not Path(first.uri).exists(), "but not for more than a day"
    assert [it.name for it in (tmp_path / "sources").iterdir() if not it.name.startswith("query-")] == []


def test_runs_at_once_share_a_result(tmp_path: Path, sqlite: str) -> None:
    """Whoever is first names the file; the others find it there."""
    found: list[File] = []
    barrier = threading.Barrier(8)

    def run() -> None:
        barrier.wait()
        found.append(fetched(tmp_path, sqlite, "select * from t order by id"))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert set(found) == {found[0]}


@pytest.mark.parametrize(
    ("select", "what", "across"),
    [
        (
            "select 1 as x union all select 'a'",
            "column 'x' mixes int and str",
            "column 'x' mixes int64 and string",
        ),
        (
            "select 1 as x union all select 2.5",
            "column 'x' mixes float and int",
            "column 'x' mixes int64 and double",
        ),
        ("select 1 as x, 2 as x", "two columns are named 'x'", "two columns are named 'x'"),
    ],
)
def test_a_column_is_of_one_type(
    tmp_path: Path, sqlite: str, monkeypatch: pytest.MonkeyPatch, *, select: str, what: str, across: str
) -> None:
    """Wherever the rows are cut: text beside numbers is a mistake, not a choice to make here."""
    for rows, message in ((100, what), (1, across)):
        monkeypatch.setattr(database, "ROWS", rows)
        with pytest.raises(DataError) as caught:
            fetched(tmp_path, sqlite, select)
        assert caught.value.what == message
    assert "in data.query" in caught.value.cure
    assert list((tmp_path / "sources").iterdir()) == []


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ("'NaN'::numeric", "column 'x': Decimal precision out of range"),
        ("'Infinity'::numeric", "column 'x': "),
        ("repeat('9', 39)::numeric", "column 'x': 39 digits, 38 at most"),
        ("repeat('9', 99)::numeric", "column 'x': Decimal precision out of range"),
        ("inet '::1'", "column 'x': values of type IPv6Address are not known"),
        ("array['a']", "column 'x': Could not convert 'a' with type str: tried to convert to double"),
        ("'infinity'::timestamp", "timestamp too large (after year 10K)"),
        ("1 / (i - 1)", "division by zero"),
    ],
)
def test_values_that_have_no_place(tmp_path: Path, postgres: PostgreSQL, cell: str, what: str) -> None:
    """Are named with their column, where the driver tells, and a cure."""
    with pytest.raises(DataError) as caught:
        fetched(tmp_path, postgres.uri, f"select {cell} as x from generate_series(1, 1) as i")
    assert caught.value.what.startswith(what)
    assert caught.value.where == "postgresql://postgres@/postgres"


WRITES = [
    "delete from kept",
    "insert into kept values (2) returning i",
    "with gone as (delete from kept returning i) select * from gone",
    "select 1; delete from kept",
    "select 1; commit; delete from kept",
    "commit; delete from kept",
    "select setval('counted', 9)",
    "drop table kept",
    "copy kept to '/tmp/x'",
]


@pytest.mark.parametrize("query", WRITES)
def test_a_query_only_reads(tmp_path: Path, postgres: PostgreSQL, query: str) -> None:
    """Whatever it says: the transaction is read-only, the cursor one of a SELECT."""
    postgres.sql("drop table if exists kept; create table kept (i int); insert into kept values (1)")
    postgres.sql("create sequence if not exists counted")
    with pytest.raises((ConfigError, DataError)) as caught:
        fetched(tmp_path, postgres.uri, query)
    assert caught.value.cure.startswith("check data.query")
    assert postgres.sql("select * from kept") == "1\n"


@pytest.mark.parametrize(
    "query", ["delete from t", "drop table t", "select 1; delete from t", "update t set id = 0 returning id"]
)
def test_a_query_only_reads_sqlite(tmp_path: Path, sqlite: str, query: str) -> None:
    """The file is opened for reading."""
    with pytest.raises(ConfigError) as caught:
        fetched(tmp_path, sqlite, query)
    assert caught.value.cure in ("check data.query", "write a SELECT")
    assert table(tmp_path, sqlite, "select count(*) as n from t")["n"].to_pylist() == [3]


@pytest.mark.parametrize(
    ("uri", "kind", "what", "where"),
    [
        ("nonsense", ConfigError, "not a database's URL", "data.uri"),
        ("nope://h/db", ConfigError, "no driver for nope", "data.uri"),
        ("postgresql+pg8000://h/db", ConfigError, "no driver for postgresql+pg8000", "data.uri"),
        ("sqlite:////none/x.db", DataError, "no such database", "/none/x.db"),
    ],
)
def test_a_database_that_is_none(tmp_path: Path, uri: str, kind: type[Exception], what: str, where: str) -> None:
    """Says what would be one; nothing is made by looking for it."""
    with pytest.raises(kind) as caught:
        fetched(tmp_path, uri, "select 1")
    assert caught.value.args[:2] == (what, where)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """In SQLite's words."""
    (tmp_path / "x.db").write_bytes(b"no database at all, but long enough" * 100)
    with pytest.raises(ConfigError, match=r"x\.db: file is not a database\n  cure: check data.query"):
        fetched(tmp_path, f"sqlite:///{tmp_path}/x.db", "select 1 from sqlite_master")


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("select * from none", 'relation "none" does not exist'),
        ("selec 1", 'syntax error at or near "selec"'),
        ("select", "the query gives no columns"),
    ],
)
def test_a_query_that_is_none(tmp_path: Path, postgres: PostgreSQL, query: str, what: str) -> None:
    """In the server's words, on one line."""
    with pytest.raises(ConfigError) as caught:
        fetched(tmp_path, postgres.uri, query)
    assert caught.value.what == what


HORSE = "correct-horse"


def test_a_password_comes_from_the_environment(
    tmp_path: Path, postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right, it opens; wrong or absent, the server's refusal is passed on, and the password is nowhere."""
    if not postgres.sql("select 1 from pg_roles where rolname = 'guarded'"):
        postgres.sql(f"create role guarded login password '{HORSE}'")
    uri = postgres.uri_of("guarded")
    monkeypatch.setenv("PGPASSWORD", HORSE)
    file = fetched(tmp_path, uri, "select current_user::text as me")
    assert pq.read_table(file.uri)["me"].to_pylist() == ["guarded"]
    monkeypatch.setenv("PGPASSWORD", "wrong-horse")
    with pytest.raises(InfrastructureError) as caught:
        fetched(tmp_path, uri, "select 1")
    assert 'password authentication failed for user "guarded"' in str(caught.value)
    assert "horse" not in str(caught.value)
    monkeypatch.delenv("PGPASSWORD")
    with pytest.raises(InfrastructureError, match="no password supplied"):
        fetched(tmp_path, uri, "select 1")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """Is named, with what to check."""
    with pytest.raises(InfrastructureError) as caught:
        fetched(tmp_path, f"postgresql://me@/db?host={tmp_path}", "select 1")
    assert str(caught.value).startswith("postgresql://me@/db: connection is bad: ")
    cure = "check the server and the password in the environment, then run again"
    assert str(caught.value).endswith(f"\n  cure: {cure}")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_connection_that_is_lost(tmp_path: Path, postgres: PostgreSQL) -> None:
    """Is no fault of the query: trying again may help."""
    kill = "pg_terminate_backend(case when i = 50000 then pg_backend_pid() end)"
    query = f"select i, {kill} from generate_series(1, 60000) as i"
    with pytest.raises(InfrastructureError) as caught:
        fetched(tmp_path, postgres.uri, query)
    assert "terminating connection due to administrator command" in caught.value.what
    assert caught.value.cure == "check the server, then run again"
    del caught
    gc.collect()  # now, for psycopg warns of the cursor that SQLAlchemy drops with a lost connection


CELLS = [
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=5),
    st.binary(max_size=5),
]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), rows=st.integers(1, 4))
def test_whatever_lies_in_the_database_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject, rows: int
) -> None:
    """A round trip over random columns of one type each, however few rows are fetched at once."""
    monkeypatch.setattr(database, "ROWS", rows)
    cells: list[Any] = data.draw(st.lists(st.none() | data.draw(st.sampled_from(CELLS)), max_size=9))
    path = tmp_path / "random.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table t (x)")
        connection.executemany("insert into t values (?)", [(cell,) for cell in cells])
        connection.commit()
    assert table(tmp_path, f"sqlite:///{path}", "select x from t order by rowid")["x"].to_pylist() == cells
