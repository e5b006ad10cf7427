"""The contract: a file that says what was agreed, whatever the names; a diff that knows what breaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import contract
from pipeline.columns import ColumnConfig
from pipeline.errors import ConfigError, DataError

GAUSSIAN = ColumnConfig(type="float64", likelihood="gaussian")
COLUMNS = {
    "id": ColumnConfig(type="int64", role="id"),
    "age": ColumnConfig(type="int8", likelihood="gaussian", nullable=True, range=(0, 120), unit="years"),
    "city": ColumnConfig(type="string", likelihood="categorical", categories=("Oslo", "Rome")),
    "pixels": ColumnConfig(type="uint8[4]", likelihood="binomial", levels=256, shape=(2, 2)),
    "size": ColumnConfig(type="string", likelihood="ordinal", order=("small", "large")),
    "share": ColumnConfig(type="float64", role="passthrough", range=(0.5, float("inf")), optional=True, nullable=True),
    "name": ColumnConfig(type="string", role="passthrough", secret=True),
    "blob": ColumnConfig(type="struct<a: int8>", role="ignore"),
}
TEXT = """\
# What each column of the dataset must be: every row that is taken in is held to it.
# Inferred once, from all rows; from then on it is yours to edit. The comments say what was seen, and bind nobody.
#   latentpipe contract diff OLD NEW     tells what a change would break
contract = 1  # version of this file's format
name = "people"

[columns.id]
type = "int64"
role = "id"

[columns.age]  # 17 .. 90, 73 distinct
type = "int8"
likelihood = "gaussian"
nullable = true
unit = "years"
range = [0, 120]

[columns."home town"]
type = "string"
likelihood = "categorical"
categories = ["Oslo", "Rome"]
"""


def written(folder: Path, columns: dict[str, ColumnConfig], name: str = "contract.toml", **remarks: str) -> str:
    """A contract of these columns, as a file."""
    (folder / name).write_text(contract.text("people", columns, remarks), encoding="utf-8")
    return str(folder / name)


def test_the_file_reads_like_a_letter(tmp_path: Path) -> None:
    """A section for each column: what differs from the default, and what was seen as a comment."""
    columns = {"id": COLUMNS["id"], "age": COLUMNS["age"], "home town": COLUMNS["city"]}
    path = written(tmp_path, columns, age="17 .. 90, 73 distinct")
    assert Path(path).read_text() == TEXT


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    """Every setting of every column, in the same order."""
    found = contract.read(written(tmp_path, COLUMNS))
    assert (found, list(found)) == (COLUMNS, list(COLUMNS))


def test_naughty_names_and_categories_survive(shared_data: Path, tmp_path: Path) -> None:
    """Every string of the list of naughty strings, as a column's name, as a category and in a remark."""
    strings = sorted(
        {*json.loads((shared_data / "odd/naughty-strings.json").read_text()), "\x7f", "\r", "\u2028", "a\x00b"}
    )
    columns: dict[str, ColumnConfig] = dict.fromkeys(strings, GAUSSIAN)
    columns["all"] = ColumnConfig(type="string", likelihood="categorical", categories=tuple(strings))
    assert contract.read(written(tmp_path, columns, **{it: it for it in strings})) == columns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "t"', "contract = None: this latentpipe reads format 1"),
        ("contract = 2\nnew = 3", "contract = 2: this latentpipe reads format 1"),
        ("contract = 1\nnam = 't'", "unknown key nam\n  cure: did you mean name?"),
        (
            "contract = 1\nname = 't'\n[columns.a]\ntyp = 'int8'",
            "unknown key columns.a.typ\n  cure: did you mean columns.a.type?",
        ),
        (
            "contract = 1\nname = 't'\n[columns.a]\ntype = 'int8'\nrole = 'target'",
            "columns.a.role: Input should be 'feature', 'id', 'passthrough' or 'ignore' (got 'target')",
        ),
        (
            "contract = 1\nname = 't'\n[columns.a]\ntype = 'int8'\nnullable = 'maybe'",
            "columns.a.nullable: Input should be",
        ),
        ("contract = ", "not readable as TOML: Invalid value (at end of document)"),
        (None, "no such file\n  cure: write one with `latentpipe init --data FILE`"),
    ],
    ids=str,
)
def test_what_cannot_be_a_contract_is_a_config_error(tmp_path: Path, text: str | None, message: str) -> None:
    """The file, the key, the reason and what was meant, as for a run's TOML."""
    path = tmp_path / "contract.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        contract.read(path)
    assert str(caught.value).startswith(f"{path}: {message}")


NUMBER = {"type": "int32", "role": "passthrough"}
CITY = {"type": "string", "likelihood": "categorical", "categories": ("Oslo", "Rome")}
CHANGES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (NUMBER, {"type": "int64"}, "compatible  x: type int32 -> int64"),
    (NUMBER, {"type": "float64"}, "compatible  x: type int32 -> float64"),
    (NUMBER, {"type": "int8"}, "breaking    x: type int32 -> int8"),
    (NUMBER, {"type": "string"}, "breaking    x: type int32 -> string"),
    ({**NUMBER, "type": "int64"}, {"type": "float64"}, "breaking    x: type int64 -> float64"),
    (NUMBER, {"nullable": True}, "compatible  x: nullable false -> true"),
    ({**NUMBER, "nullable": True}, {"nullable": False}, "breaking    x: nullable true -> false"),
    ({**NUMBER, "nullable": True}, {"optional": True}, "compatible  x: optional false -> true"),
    (NUMBER, {"role": "id"}, "breaking    x: role passthrough -> id"),
    (NUMBER, {"role": "ignore"}, "breaking    x: removed"),
    ({**NUMBER, "role": "ignore"}, {"role": "passthrough"}, "breaking    x: added, int32"),
    (
        {**NUMBER, "role": "ignore"},
        {"role": "passthrough", "nullable": True, "optional": True},
        "compatible  x: added, int32",
    ),
    (NUMBER, {"range": (0, 120)}, "breaking    x: range [] -> [0, 120]"),
    ({**NUMBER, "range": (0, 120)}, {"range": ()}, "compatible  x: range [0, 120] -> []"),
    ({**NUMBER, "range": (0, 120)}, {"range": (-1, 120)}, "compatible  x: range [0, 120] -> [-1, 120]"),
    ({**NUMBER, "range": (0, 120)}, {"range": (1, 130)}, "breaking    x: range [0, 120] -> [1, 130]"),
    (NUMBER, {"unit": "m"}, 'breaking    x: unit "" -> m'),
    (NUMBER, {"secret": True}, "compatible  x: secret false -> true"),
    ({**NUMBER, "secret": True}, {"secret": False}, "breaking    x: secret true -> false"),
    (CITY, {"categories": ("Oslo", "Rome", "Lima")}, 'compatible  x: categories added: "Lima"'),
    (CITY, {"categories": ("Rome",)}, 'breaking    x: categories removed: "Oslo"'),
    (CITY, {"categories": ("Rome", "Oslo")}, ""),
    (CITY, {"categories": ()}, 'compatible  x: categories ["Oslo", "Rome"] -> []'),
    (CITY, {"likelihood": "bernoulli"}, "breaking    x: likelihood categorical -> bernoulli"),
]


@pytest.mark.parametrize(("old", "change", "line"), CHANGES, ids=[it[2] for it in CHANGES])
def test_each_change_has_a_verdict(tmp_path: Path, old: dict[str, Any], change: dict[str, Any], line: str) -> None:
    """Compatible by the table of widenings or as a looser rule; breaking otherwise; exit 3 if anything breaks."""
    paths = [
        written(tmp_path, {"x": ColumnConfig(**it), "y": GAUSSIAN}, f"{name}.toml")
        for name, it in (("old", old), ("new", {**old, **change}))
    ]
    answer, lines = contract.contract_diff(*paths)
    breaks = line.startswith("breaking")
    assert [it.replace(".0", "") for it in lines[:-1]] == [line] * bool(line)
    assert lines[-1] == f"{int(bool(line) and not breaks)} compatible, {int(breaks)} breaking"
    assert (answer["compatible"], answer["exit_code"], len(answer["changes"])) == (
        not breaks,
        3 * breaks,
        len(lines) - 1,
    )


RULES = {
    "id": {"type": "int64", "role": "id", "nullable": False},
    "x": {"type": "int8", "role": "feature", "nullable": False},
}


def test_a_diff_reads_contracts_runs_and_snapshots(tmp_path: Path) -> None:
    """Of what only one of them states, nothing is said."""
    (tmp_path / "v000001").mkdir()
    manifest = tmp_path / "v000001" / "_manifest.json"
    manifest.write_text(json.dumps({"rules": {"columns": RULES}}))
    columns = {"id": COLUMNS["id"], "x": ColumnConfig(type="int16", likelihood="gaussian", unit="m")}
    run = tmp_path / "run.toml"
    run.write_text('name = "t"\n[data]\nuri = "t.csv"\n[columns]\nid = { type = "int64", role = "id" }\n'
                   'x = { type = "int16", likelihood = "gaussian", unit = "m" }')  # fmt: skip
    for old in (str(manifest), str(manifest.parent)):
        for new in (written(tmp_path, columns), str(run)):
            assert contract.contract_diff(old, new)[1] == [
                "compatible  x: type int8 -> int16",
                "1 compatible, 0 breaking",
            ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.json", "{", "not readable as a manifest: Expecting property name"),
        ("m.json", '{"kind": "latents"}', "not the manifest of a dataset: it has no rules of columns"),
        ("m.json", "[1]", "not the manifest of a dataset"),
    ],
)
def test_what_has_no_columns_is_a_data_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    """The path and the reason."""
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        contract.columns_at(str(tmp_path / name))
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")


def test_a_schema_evolves_by_widenings_only() -> None:
    """Wider types, new columns and columns given up pass; any other type is refused with both."""
    agreed = {**RULES, "gone": {"type": "int8", "role": "feature"}, "junk": {"type": "map", "role": "ignore"}}
    wider = ColumnConfig(type="int64", likelihood="gaussian")
    contract.evolve(agreed, {"id": COLUMNS["id"], "x": wider, "junk": GAUSSIAN, "new": GAUSSIAN}, where="c.toml")
    with pytest.raises(ConfigError) as caught:
        contract.evolve({"x": {"type": "int64", "role": "feature"}}, {"x": GAUSSIAN}, where="c.toml")
    assert str(caught.value) == (
        "c.toml: columns.x: type = 'float64', where 'int64' was agreed, which does not widen to it\n"
        "  cure: declare type = 'int64', or begin a dataset of another name"
    )
