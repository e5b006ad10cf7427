"""The command line in this process: verbs, answers and exit codes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from harness import small_csv, small_settings

from pipeline import cli, snapshots


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The command sets signal handlers; the tests' own come back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


class Shell:
    """Runs verbs on one TOML, and tells what they print."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.toml = folder / "run.toml"

    def write(self, settings: dict[str, Any]) -> None:
        """Settings as the run's TOML."""
        self.toml.write_text(to_toml(settings))

    def __call__(self, *arguments: str) -> tuple[int, Any, str]:
        """Exit code, JSON answer, stderr."""
        with pytest.raises(SystemExit) as ended:
            cli.main([*arguments, "--json"])
        out, err = self.capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, json.loads(out.splitlines()[-1]) if out else None, err


def to_toml(settings: dict[str, Any], path: str = "") -> str:
    """Nested settings as TOML; JSON values are TOML values."""
    plain = [
        f"{json.dumps(key)} = {json.dumps(value)}" for key, value in settings.items() if not isinstance(value, dict)
    ]
    tables = [to_toml(value, f"{path}{json.dumps(key)}.") for key, value in settings.items() if isinstance(value, dict)]
    return "\n".join([f"[{path[:-1]}]" if path else "", *plain, *tables])


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell in a folder with a small table and a run over it."""
    shell = Shell(tmp_path, capsys)
    shell.write(small_settings(tmp_path))
    return shell


@pytest.mark.usefixtures("ray_up")
def test_each_step_alone(shell: Shell) -> None:
    """plan, ingest, train, register, encode, reduce, report, sample: each finds what the one before left."""
    toml = str(shell.toml)
    code, planned, _ = shell("plan", toml)
    assert code == 0
    assert (planned["rows"], planned["work_units"], planned["dataset"]) == (300, 3, "new")
    assert planned["latents"] == "3 units new: there is no model yet"
    assert planned["columns"]["city"] == "categorical"
    assert not (shell.folder / "workspace").exists()
    steps = {}
    for verb in ("ingest", "train", "register", "encode", "reduce", "report"):
        code, steps[verb], err = shell(verb, toml)
        assert code == 0, err
    planned = shell("plan", toml)[1]
    assert planned["training"].startswith("done")
    assert planned["latents"] == "0 units new; 3 carried over; 0 retired"
    bare = shell("plan", toml, "--set", "encode.reconstruct=false")[1]
    assert bare["latents"] == "3 units new: output changed (3); 0 carried over; 3 retired"
    assert bare["new"] == {f"part-00000-00{number}.parquet": "output changed" for number in range(3)}
    table = (shell.folder / "small.csv").read_text()
    (shell.folder / "small.csv").write_text(table.replace("note 7\n", "another note\n"))
    changed = shell("plan", toml)[1]
    assert (changed["latents"].split(";")[0], changed["new"]) == (
        "about 3 units new: input changed",
        {"small.csv": "input changed"},
    )
    (shell.folder / "small.csv").write_text(table)
    assert steps["register"]["champion"]
    assert steps["encode"]["rows"] == 300
    assert Path(steps["report"]["page"]).is_file()
    code, sampled, _ = shell("sample", toml, "--rows", "50")
    table = pq.read_table(sampled["snapshot"])
    assert code == 0
    assert [str(it.type) for it in table.schema] == ["double", "bool", "string"]
    assert set(table.column("city").to_pylist()) <= {"Rome", "Oslo", "Lima"}
    assert 100 < table.to_pandas()["height"].mean() < 250


@pytest.mark.parametrize(("verb", "cure"), [("train", "ingest"), ("encode", "register"), ("reduce", "encode")])
def test_a_step_out_of_turn_names_the_one_before(shell: Shell, verb: str, cure: str) -> None:
    """What is missing, and the command that makes it."""
    code, answer, err = shell(verb, str(shell.toml))
    assert code in (2, 3)
    assert f"`latentpipe {cure}`" in err
    assert answer["exit_code"] == code


def test_a_bad_config_is_exit_2_without_a_traceback(shell: Shell) -> None:
    """`unknown key ... did you mean ...`, two lines, no more."""
    shell.write(small_settings(shell.folder, train={"epoch": 3}))
    code, _, err = shell("ingest", str(shell.toml))
    assert code == 2
    assert err == f"latentpipe: {shell.toml}: unknown key train.epoch\n  cure: did you mean train.epochs?\n"


def test_a_value_that_a_likelihood_cannot_have_is_exit_3(shell: Shell) -> None:
    """The column, the value and a likelihood that can: before anything is trained or written."""
    settings = small_settings(shell.folder)
    settings["columns"]["height"]["likelihood"] = "log_normal"
    shell.write(settings)
    path = shell.folder / "small.csv"
    path.write_text(path.read_text() + "9999,-1.5,true,Rome,short\n")
    code, answer, err = shell("plan", str(shell.toml))
    assert (code, answer["exit_code"]) == (3, 3)
    assert "column 'height' holds -1.5, which is not positive (log_normal)\n  cure: 'gaussian' or 'student_t'" in err
    assert not (shell.folder / "workspace").exists()


def test_bad_usage_is_exit_2(shell: Shell) -> None:
    """An unknown verb, a missing file argument."""
    for arguments in (["fly"], ["train"], []):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 2


BAD: dict[str, tuple[str | None, str]] = {
    "missing file": (None, "small.csv: no such file, folder or match"),
    "empty file": ("", "small.csv: no rows"),
    "header only": ("id,height,smoker,city,note\n", "no rows"),
    "all-null column": (
        "id,height,smoker,city,note\n1,,true,Rome,a\n2,,true,Rome,b\n",
        "column 'height' holds no value",
    ),
    "duplicate ids": ("id,height,smoker,city,note\n7,1,true,Rome,a\n7,2,true,Rome,b\n", "column 'id' repeats 1 ids: 7"),
    "null id": ("id,height,smoker,city,note\n,1,true,Rome,a\n", "row 0, column 'id': missing"),
    "wrong type": ("id,height,smoker,city,note\n1,tall,true,Rome,a\n", "row 0, column 'height': not float64: 'tall'"),
    "infinite": ("id,height,smoker,city,note\n1,inf,true,Rome,a\n", "row 0, column 'height': not finite: 'inf'"),
    "missing column": (
        "id,smoker,city,note\n1,true,Rome,a\n",
        "column 'height' is missing; found: id, smoker, city, note",
    ),
    "ragged row": ("id,height,smoker,city,note\n1,1,true,Rome,a\n2,2\n", "wrong number of cells: '2,2'"),
    "two columns of one name": ("id,height,smoker,city,city\n1,1,true,Rome,a\n", "two columns are named 'city'"),
    "not text": ("id,height\x00\xff\n", "small.csv"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_exit_3_and_publishes_nothing(shell: Shell, case: str) -> None:
    """File and column are named; the snapshot from before is untouched."""
    table, words = BAD[case]
    source = shell.folder / "small.csv"
    assert shell("ingest", str(shell.toml))[0] == 0
    root = shell.folder / "workspace/datasets/small"
    before = [(it.directory, it.digest) for it in snapshots.versions(root)]
    source.unlink()
    if table is not None:
        source.write_bytes(table.encode("latin-1"))
    code, _, err = shell("ingest", str(shell.toml))
    assert code == 3
    assert words in err
    assert "small.csv: " in err
    assert "Traceback" not in err
    assert [(it.directory, it.digest) for it in snapshots.versions(root)] == before
    assert not list(root.rglob("_attempts"))


def test_quarantine_sets_rows_aside_up_to_its_limit(shell: Shell) -> None:
    """rows in = kept + quarantined; each bad row is data with its file, position, column, rule and value."""
    lines = (shell.folder / "small.csv").read_text().splitlines()
    lines[5] = "1004,tall,true,Rome,note"
    lines[9] = "1008,1"
    (shell.folder / "small.csv").write_text("\n".join(lines))
    shell.write(small_settings(shell.folder, data={"on_bad_row": "quarantine"}))
    (shell.folder / "small.csv").write_text("\n".join(lines))
    code, answer, err = shell("ingest", str(shell.toml))
    assert code == 0, err
    assert (answer["rows_in"], answer["rows"], answer["quarantined"]) == (300, 298, 2)
    rows = pq.read_table(Path(answer["snapshot"]) / "_quarantine").to_pylist()
    assert {(row["rule"], row["column"], row["value"]) for row in rows} == {
        ("not float64", "height", "tall"),
        ("wrong number of cells", "", "1008,1"),
    }
    assert pq.read_table(f"{answer['snapshot']}/part-00000-000.parquet").num_rows == 128
    code, _, err = shell("ingest", str(shell.toml), "--set", "data.quarantine_limit=0.001")
    assert code == 3
    assert "2 of 300 rows break the contract (0.7%), first: " in err


def test_an_unwritable_workspace_is_exit_4(shell: Shell) -> None:
    """Infrastructure: the path, and that trying again may help."""
    (shell.folder / "file").write_text("")
    code, _, err = shell("ingest", str(shell.toml), "--set", f"workspace={shell.folder}/file/below")
    assert code == 4
    assert "cannot write" in err


def test_init_writes_what_ingest_accepts(shell: Shell) -> None:
    """The TOML that `init` writes from a table is valid, and `ingest` keeps every row by it."""
    small_csv(shell.folder / "people.csv")
    out = shell.folder / "people.toml"
    assert shell("init", "--data", str(shell.folder / "people.csv"), "--out", str(out))[0] == 0
    text = out.read_text()
    assert 'id = { type = "int64", role = "id" }' in text
    assert 'smoker = { type = "bool", likelihood = "bernoulli" }' in text
    assert 'height = { type = "float64", likelihood = "gaussian", nullable = true }' in text
    code, answer, err = shell("ingest", str(out), "--set", f"workspace={shell.folder}/w")
    assert (code, answer and answer["rows"]) == (0, 300), err
    code, _, err = shell("init", "--data", str(shell.folder / "people.csv"), "--out", str(out))
    assert code == 2
    assert "the file exists already" in err


@pytest.mark.usefixtures("ray_up")
def test_doctor_tries_the_real_thing(shell: Shell) -> None:
    """Versions, cores, GPU, storage, MLflow and Ray are each tried, and reported by name."""
    code, answer, _ = shell("doctor", str(shell.toml))
    assert code == 0
    assert [it["check"] for it in answer["checks"]] == ["versions", "machine", "gpu", "storage", "mlflow", "ray"]
    assert all(it["ok"] for it in answer["checks"])
