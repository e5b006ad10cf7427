"""init: the TOML it writes for a table is one that `ingest` accepts, and says what was found."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import runfile, sources
from pipeline.errors import DataError
from pipeline.init import default_name, init
from pipeline.intake.taking import Intake, Share
from pipeline.schema import arrow_type


def written(source: Path) -> dict[str, Any]:
    """The TOML for this table, parsed; it is a valid config."""
    settings = tomllib.loads(init(str(source), name="t"))
    runfile.parse(settings)
    return settings


def remark(source: Path, column: str) -> str:
    """The comment behind a column's line."""
    (line,) = (it for it in init(str(source), name="t").splitlines() if it.startswith(f"{column} = "))
    return line.partition("  # ")[2]


def csv(folder: Path, content: str, name: str = "t.csv") -> Path:
    """A file of this content."""
    (folder / name).write_bytes(content.encode())
    return folder / name


def parquet(folder: Path, **columns: Any) -> Path:
    """A Parquet file of these columns."""
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


def accepted(settings: dict[str, Any]) -> pa.Table:
    """The rows that `ingest` would publish, all of them, if the table is declared as `init` says."""
    config = runfile.parse(settings)
    files = sources.files(config.data, workspace=config.root)
    pieces = [piece for file in files for piece in sources.cut(file, config.data).pieces]
    return pa.Table.from_batches([*Intake(config).batches([Share(piece=piece) for piece in pieces])])


def test_adult(shared_data: Path) -> None:
    """No header, a blank after each comma, `?` for missing: all 32,561 rows are kept."""
    settings = written(shared_data / "adult-train.csv")
    data, columns = settings["data"], settings["columns"]
    assert (data["header"], data["trim"], data["null_tokens"]) == (False, True, ["", "?"])
    assert data["names"] == list(columns) == [f"column_{number}" for number in range(1, 16)]
    numbers = [name for name, it in columns.items() if it["type"] == "int64"]
    assert numbers == [f"column_{number}" for number in (1, 3, 5, 11, 12, 13)]
    assert [columns[name]["likelihood"] for name in numbers] == ["gaussian"] * 6
    others = {name: it for name, it in columns.items() if name not in numbers}
    assert {(it["type"], it["likelihood"]) for it in others.values()} == {("string", "categorical")}
    assert [name for name, it in columns.items() if it.get("nullable")] == ["column_2", "column_7", "column_14"]
    table = accepted(settings)
    assert table.num_rows == 32_561
    assert table.column("column_2").null_count == 1836
    assert table.column("row_id").to_pylist() == list(range(32_561))
    assert table.column("column_4")[0].as_py() == "Bachelors"


def test_housing(shared_data: Path) -> None:
    """A header, numbers, 207 missing cells, one category column: all 20,640 rows are kept."""
    settings = written(shared_data / "housing.csv")
    assert settings["data"] == {"uri": str(shared_data / "housing.csv")}
    columns = settings["columns"]
    assert columns.pop("ocean_proximity") == {"type": "string", "likelihood": "categorical"}
    assert columns["total_bedrooms"] == {"type": "float64", "likelihood": "gaussian", "nullable": True}
    assert len(columns) == 9
    assert {it["likelihood"] for it in columns.values()} == {"gaussian"}
    table = accepted(written(shared_data / "housing.csv"))
    assert (table.num_rows, table.column("total_bedrooms").null_count) == (20_640, 207)


ODD_NAMES = [
    "with space",
    'quo"te',
    "it's",
    "back\\slash",
    "do.t",
    "😀",
    "日本",
    "new\nline",
    "tab\t",
    "#",
    "=",
    "[x]",
    "{y}",
    "",
]


@pytest.mark.parametrize("name", [*ODD_NAMES, "\x01", "a" * 500], ids=ascii)
def test_odd_names_survive(tmp_path: Path, name: str) -> None:
    """A column may be called anything: the TOML holds the name, and `ingest` finds it."""
    settings = written(parquet(tmp_path, **{name: [1.0, 2.5, 3.0], "other": [3.0, 2.0, 1.5]}))
    assert list(settings["columns"]) == [name, "other"]
    assert set(accepted(settings).column_names) == {name, "other", "row_id"}


def test_a_delete_character_in_a_name_survives(tmp_path: Path) -> None:
    """TOML forbids it unescaped, JSON does not."""
    assert list(written(parquet(tmp_path, **{"a\x7fb": [1.0, 2.5], "x": [1.0, 2.0]}))["columns"]) == ["a\x7fb", "x"]


def test_naughty_names_survive(shared_data: Path, tmp_path: Path) -> None:
    """Every string of the list of naughty strings as a column's name, unless another has it, and as a category."""
    strings = sorted(set(json.loads((shared_data / "odd/naughty-strings.json").read_text())))
    table = {name: [float(i), 0.5] for i, name in enumerate({it.casefold(): it for it in strings}.values(), 2)}
    assert set(written(parquet(tmp_path, **table))["columns"]) == set(table)
    settings = written(parquet(tmp_path, text=strings, x=[i / 2 for i in range(len(strings))]))
    assert settings["columns"]["text"] == {"type": "string", "likelihood": "categorical"}
    assert accepted(settings).column("text").to_pylist() == strings


@pytest.mark.parametrize(
    ("values", "kind", "likelihood"),
    [
        (["1", "2", "3"], "int64", "gaussian"),
        (["1", "2.5", "3"], "float64", "gaussian"),
        (["1e3", "2", "-3"], "float64", "gaussian"),
        (["true", "false", "true"], "bool", "bernoulli"),
        (["0", "1", "1"], "int64", "bernoulli"),
        (["a", "b", "1"], "string", "categorical"),
        (["1", "2", "x"], "string", "categorical"),
        (["9223372036854775808", "1", "2"], "float64", "gaussian"),
        (["1", "true", "0"], "bool", "bernoulli"),
        (["7", "true", "0"], "string", "categorical"),
        (["0x1F", "12", "7"], "string", "categorical"),
        (["12:30", "12:31", "12:32"], "string", "categorical"),
        (["01.02.2024", "02.02.2024", "03.02.2024"], "string", "categorical"),
        (["01234", "99", "7"], "string", "categorical"),
        (["0", "-0.5", "0.25"], "float64", "gaussian"),
    ],
)
def test_text_gets_the_narrowest_type_that_holds_all_of_it(
    tmp_path: Path, values: list[str], kind: str, likelihood: str
) -> None:
    """int64, float64, bool, else string; two values are Bernoulli, text is categories."""
    source = csv(tmp_path, "c,other\n" + "\n".join(f"{it},{i + 0.5}" for i, it in enumerate(values)))
    settings = written(source)
    assert settings["columns"]["c"] == {"type": kind, "likelihood": likelihood}
    assert accepted(settings).num_rows == 3


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        (["2024-01-01", "2024-01-02", "2023-12-31"], "date", "2023-12-31 .. 2024-01-02, 3 distinct"),
        (
            ["2024-01-01T00:00:00Z", "2024-01-02 10:30+02:00", "2024-01-03T00:00Z"],
            "timestamp",
            "2024-01-01T00:00:00.000000 .. 2024-01-03T00:00:00.000000, 3 distinct",
        ),
        (
            ["2024-01-01 00:00:00", "2024-01-02 10:30", "2024-01-03 00:00"],
            "string",
            "3 distinct, times of no zone: declare data.time_zone and type = 'timestamp'",
        ),
    ],
)
def test_times_in_text_are_told_and_kept(tmp_path: Path, values: list[str], kind: str, said: str) -> None:
    """ISO 8601, and nothing else; those without a zone stay text until one is declared."""
    source = csv(tmp_path, "c,other\n" + "\n".join(f"{it},{i + 0.5}" for i, it in enumerate(values)))
    settings = written(source)
    assert settings["columns"]["c"] == {"type": kind, "role": "passthrough"}
    assert remark(source, "c") == said
    assert accepted(settings).num_rows == 3


def test_missing_tokens_are_found_and_declared(tmp_path: Path) -> None:
    """Those that occur as whole cells, and only those."""
    source = csv(tmp_path, "a,b,c\n1,NA,x\nnull,2,NASA\n3,,nan\n")
    settings = written(source)
    assert settings["data"]["null_tokens"] == ["", "NA", "nan", "null"]
    assert {name: it["type"] for name, it in settings["columns"].items()} == {"a": "int64", "b": "int64", "c": "string"}
    assert all(it["nullable"] for it in settings["columns"].values())
    assert accepted(settings).num_rows == 3


@pytest.mark.parametrize(
    ("name", "content", "data"),
    [
        ("t.csv", "a;b\n1;2,5\n3;4,5\n", {"delimiter": ";"}),
        ("t.tsv", "a\tb\n1\t2.5\n3\t4.5\n", {"delimiter": "\t"}),
        ("t.csv", "a|b\n1|2.5\n3|4.5\n", {"delimiter": "|"}),
        ("t.csv", "1,2.5\n3,4.5\n", {"header": False, "names": ["column_1", "column_2"]}),
        ("t.csv", "\ufeffa,b\r\n1,2.5\r\n3,4.5\r\n", {}),
        ("t.csv", "a, b\n1, 2.5\n3, 4.5\n", {"trim": True}),
        ("t.csv", ",a\n0,2.5\n1,4.5\n", {}),
        ("t.csv", 'a,b\n1,"x, y"\n3,"two\nlines"\n', {}),
    ],
)
def test_how_a_csv_is_written_is_found_and_declared(
    tmp_path: Path, name: str, content: str, data: dict[str, Any]
) -> None:
    """Delimiter, header, blanks; nothing is told that is the default."""
    source = csv(tmp_path, content, name)
    settings = written(source)
    assert settings["data"] == {"uri": str(source), **data}
    assert accepted(settings).num_rows == 2


def test_a_folder_of_files_is_one_table(tmp_path: Path) -> None:
    """As `ingest` takes a folder, so does `init`."""
    (tmp_path / "folder").mkdir()
    for number in range(2):
        csv(tmp_path / "folder", f"a;b\n1;{number}.5\n3;x\n", f"{number}.csv")
    settings = written(tmp_path / "folder")
    assert settings["data"]["delimiter"] == ";"
    assert accepted(settings).num_rows == 4


def test_a_glob_is_one_table(tmp_path: Path) -> None:
    """A type must hold for all files."""
    for number, value in enumerate(("1", "x")):
        csv(tmp_path, f"a,b\n{value},1.5\n2,2.5\n", f"{number}.csv")
    assert written(tmp_path / "*.csv")["columns"]["a"] == {"type": "string", "likelihood": "categorical"}


def test_what_cannot_be_modelled_gets_a_role_and_a_remark(tmp_path: Path) -> None:
    """Constant, all null, a type nobody can model, too many categories: each is told why."""
    rows = 1002
    source = parquet(
        tmp_path,
        x=[i / 2 for i in range(rows)],
        constant=["same"] * rows,
        empty=pa.nulls(rows),
        nothing=pa.nulls(rows, pa.float64()),
        when=pa.array(range(rows), pa.timestamp("ms", "UTC")),
        nested=[{"a": i} for i in range(rows)],
        many=[f"name {i}" for i in range(rows)],
        listed=[[i] for i in range(rows)],
    )
    settings = written(source)
    roles = {name: it.get("role") for name, it in settings["columns"].items()}
    assert roles == {
        "x": None,
        "constant": "ignore",
        "empty": "ignore",
        "nothing": "ignore",
        "when": "passthrough",
        "nested": "ignore",
        "many": "passthrough",
        "listed": "ignore",
    }
    assert remark(source, "constant") == "1 distinct, constant"
    assert remark(source, "empty") == remark(source, "nothing") == "no value at all"
    assert remark(source, "nested") == "flatten it to model it"
    assert remark(source, "listed") == "lists of 1 each: flatten them, or declare a vector"
    assert remark(source, "when") == "1970-01-01T00:00:00.000 .. 1970-01-01T00:00:01.001, 1,002 distinct"
    assert remark(source, "many") == "1,002 distinct"
    assert remark(source, "x") == "0 .. 500.5, 1,002 distinct"
    assert accepted(settings).num_rows == rows


def test_vectors_are_gaussian(tmp_path: Path) -> None:
    """A fixed-size list of numbers."""
    vectors = pa.array([[1, 2], [5, 6], [3, 4]], arrow_type("float32[2]"))
    settings = written(parquet(tmp_path, v=vectors, x=[1.0, 2.0, 3.5]))
    assert settings["columns"]["v"] == {"type": "float32[2]", "likelihood": "gaussian"}
    assert accepted(settings).num_rows == 3


@pytest.mark.parametrize("kind", ["float32", "int8", "uint8", "bool", "string"])
def test_typed_columns_keep_their_types(tmp_path: Path, kind: str) -> None:
    """Parquet describes itself; dictionaries are what they hold."""
    values = {"bool": [True, False, True], "string": ["a", "b", "a"]}.get(kind, [1, 5, 9])
    plain = pa.array(values, arrow_type(kind))
    settings = written(parquet(tmp_path, c=plain, d=plain.dictionary_encode(), x=[1.5, 2.0, 3.0]))
    assert settings["columns"]["c"]["type"] == settings["columns"]["d"]["type"] == kind
    assert accepted(settings).num_rows == 3


def test_float16_columns_are_described(tmp_path: Path) -> None:
    """A type that `ingest` takes is one that `init` can look at."""
    column = pa.array(np.array([1, 2, 3], np.float16))
    assert written(parquet(tmp_path, h=column, x=[1.0, 2.0, 4.0]))["columns"]["h"]["type"] == "float16"


def test_an_id_is_recognised(tmp_path: Path) -> None:
    """A column named like an id that names every row once; else the running number will do."""
    settings = written(csv(tmp_path, "user_id,x\n7,1.5\n8,2.5\n"))
    assert settings["columns"]["user_id"] == {"type": "int64", "role": "id"}
    source = csv(tmp_path, "user_id,x\n7,1.5\n7,2.5\n8,3.5\n")
    assert settings["columns"]["user_id"] != written(source)["columns"]["user_id"]
    assert "`row_id`, the running number, will" in init(str(source), name="t")


def test_ids_beyond_2_to_the_53_are_described(tmp_path: Path) -> None:
    """Snowflake ids and hashes are whole numbers that no float holds."""
    settings = written(parquet(tmp_path, id=[2**60 + 1, 2**60 + 2], x=[1.0, 2.5]))
    assert settings["columns"]["id"] == {"type": "int64", "role": "id"}
    settings = written(csv(tmp_path, f"id,x\n{2**60 + 1},1.5\n{2**60 + 2},2.5\n"))
    assert settings["columns"]["id"] == {"type": "int64", "role": "id"}


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_encodings_that_say_so_and_compressed_files_are_read(tmp_path: Path, encoding: str, suffix: str) -> None:
    """A byte-order mark declares UTF-16; what another encoding would be is not guessed."""
    text = "naïve;x\nÅ;1.5\nß;2.5\n"
    path = tmp_path / f"t.csv{suffix}"
    with pa.output_stream(str(path), compression="detect") as stream:
        stream.write((text if encoding != "utf-16-be" else "\ufeff" + text).encode(encoding))
    settings = written(path)
    assert settings["data"].get("encoding", "utf-8") == ("utf-16" if "16" in encoding else "utf-8")
    assert list(settings["columns"]) == ["naïve", "x"]
    assert accepted(settings).num_rows == 2


def test_a_long_cell_is_only_a_long_cell(tmp_path: Path) -> None:
    """Python's csv has a limit of its own, which is none of ours."""
    settings = written(csv(tmp_path, f"a,b\n{'x' * 200_000},1.5\ny,2.5\n"))
    assert settings["columns"]["a"]["type"] == "string"


@pytest.mark.parametrize(
    ("file", "name"), [("my data (1).csv", "my-data-1"), ("a.b.csv", "a"), ("日本.csv", "table"), ("_x.csv", "x")]
)
def test_the_name_is_one_that_a_config_may_have(tmp_path: Path, file: str, name: str) -> None:
    """From the file's, whatever that is."""
    source = csv(tmp_path, "a,b\n1,2.5\n2,3.5\n", file)
    assert default_name(str(source)) == name
    assert runfile.parse(tomllib.loads(init(str(source), name=name))).name == name


def test_names_that_come_twice_are_no_first_row(tmp_path: Path) -> None:
    """They are a mistake to be told, not data."""
    with pytest.raises(DataError, match=r"t.csv: two columns are named 'a'\n  cure: rename one of them"):
        init(str(csv(tmp_path, "a,a\n1,2\n")), name="t")


def test_a_table_without_rows_is_an_error(tmp_path: Path) -> None:
    """Nothing can be learned from a header."""
    with pytest.raises(DataError, match=r"t.csv: no rows"):
        init(str(csv(tmp_path, "a,b\n")), name="t")
    with pytest.raises(DataError, match=r"t.csv: no rows"):
        init(str(csv(tmp_path, "")), name="t")


def test_nan_in_a_typed_table_is_declared_as_missing(tmp_path: Path) -> None:
    """The written TOML is one that `ingest` accepts, NaN and all."""
    path = tmp_path / "typed.parquet"
    pq.write_table(pa.table({"x": [1.0, float("nan"), 3.0], "y": [1.5, 2.5, 3.5]}), path)
    settings = written(path)
    assert settings["data"]["nan_is_missing"] is True
    assert settings["columns"]["x"]["nullable"] is True
    assert accepted(settings).num_rows == 3
