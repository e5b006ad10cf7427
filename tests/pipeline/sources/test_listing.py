"""Which files a source names, and which it refuses."""

from __future__ import annotations

import hashlib
import os
import socket
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.sources.file import File
from pipeline.sources.listing import files
from pipeline.sources.pattern import Pattern


def listed(uri: Path | str, **options: Any) -> list[File]:
    """The files of a source."""
    return files(Data(uri=str(uri), **options), workspace=Path("unused"))


def names(uri: Path | str, **options: Any) -> list[str]:
    """Their names."""
    return [it.name for it in listed(uri, **options)]


def tree(root: Path, *paths: str) -> None:
    """Files of these names below a folder."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(os.fsencode(f"x\n{path}\n"))


def test_a_file_is_what_lies_there(tmp_path: Path) -> None:
    """Where, how long, since when, and the sha256 of its last 64 KiB; nothing else is read."""
    path = tmp_path / "a.csv"
    path.write_bytes(bytes(100_000) + b"end")
    (file,) = listed(path)
    mark = hashlib.sha256(path.read_bytes()[-65536:]).hexdigest()
    stamp = str(path.stat().st_mtime_ns)
    assert file == File(uri=str(path), name="a.csv", bytes=100_003, stamp=stamp, mark=mark)
    path.write_bytes(b"")
    assert (listed(path)[0].bytes, listed(path)[0].mark) == (0, hashlib.sha256().hexdigest())


TREE = (
    "b.csv",
    "a.csv",
    "sub/c.csv",
    "sub/deep/d.csv",
    "[odd].csv",
    ".hidden.csv",
    "_SUCCESS",
    "_tmp/0/p.csv",
    ".x/y.csv",
)


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("", ["[odd].csv", "a.csv", "b.csv", "sub/c.csv", "sub/deep/d.csv"]),
        ("sub", ["c.csv", "deep/d.csv"]),
        ("*.csv", ["[odd].csv", "a.csv", "b.csv"]),
        ("?.csv", ["a.csv", "b.csv"]),
        ("[!a].csv", ["b.csv"]),
        ("**/c*", ["sub/c.csv"]),
        ("**/*.csv", ["[odd].csv", "a.csv", "b.csv", "sub/c.csv", "sub/deep/d.csv"]),
        ("sub/**", ["c.csv", "deep/d.csv"]),
        ("*/*.csv", ["sub/c.csv"]),
        ("s*/**/d.csv", ["sub/deep/d.csv"]),
        ("[odd].csv", ["[odd].csv"]),
        ("_SUCCESS", ["_SUCCESS"]),
        ("_*", ["_SUCCESS"]),
        ("_tmp/**", ["0/p.csv"]),
        (".x/*", ["y.csv"]),
    ],
)
def test_folders_and_globs(tmp_path: Path, glob: str, expected: list[str]) -> None:
    """All files below a folder or of a glob, sorted; hidden and `_` ones only where they are named."""
    tree(tmp_path, *TREE)
    assert names(f"{tmp_path}/{glob}") == expected
    assert names(f"file://{tmp_path}/{glob}") == expected


@pytest.mark.parametrize("uri", ["none.csv", "x*.parquet", "none/*.csv", "a.csv/b", "*/none"])
def test_nothing_is_an_error(tmp_path: Path, uri: str) -> None:
    """A source without files is a mistake, not an empty table."""
    tree(tmp_path, "a.csv")
    with pytest.raises(DataError) as caught:
        listed(f"{tmp_path}/{uri}")
    assert str(caught.value) == f"{tmp_path}/{uri}: no such file, folder or match\n  cure: check data.uri"


def test_a_name_is_taken_as_written(tmp_path: Path) -> None:
    """Glob characters, percent signs, blanks, emoji, either form of é, case, 255 bytes; a folder's too."""
    odd = [
        "a[1].csv",
        "what?.csv",
        "star*.csv",
        "100%20.csv",
        " blank .csv",
        "😀.csv",
        "it's;$(x)`.csv",
        "~",
        "CASE.csv",
        "case.csv",
        unicodedata.normalize("NFC", "é.csv"),
        unicodedata.normalize("NFD", "é.csv"),
        "x" * 251 + ".csv",
        "run[1]/b.csv",
        "run1/c.csv",
    ]
    tree(tmp_path, *odd)
    assert names(tmp_path) == sorted(odd)
    for name in odd:
        assert names(tmp_path / name) == [PurePosixPath(name).name]
    assert names(f"{tmp_path}/run[1]/*.csv") == ["b.csv"], "the folder as it is written comes before its glob"
    assert names(f"{tmp_path}/run[0-9]/*.csv") == ["run1/c.csv"]


def test_paths_are_relative_to_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a user may say `..`; the file is known by where it lies."""
    tree(tmp_path, "in/a.csv")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    (file,) = listed("../in")
    assert (file.name, os.path.realpath(file.uri)) == ("a.csv", str(tmp_path / "in/a.csv"))
    (percent,) = listed(f"file://{tmp_path}/in/%61.csv")
    assert percent.uri == f"{tmp_path}/in/a.csv"


@pytest.mark.parametrize("name", ["two\nlines.csv", "bell\x07.csv", "line\u2028.csv", "\x85", os.fsdecode(b"\xff.csv")])
def test_a_name_that_does_not_print_is_refused(tmp_path: Path, name: str) -> None:
    """By its repr: it would break lines of logs, manifests or Parquet."""
    tree(tmp_path, f"sub/{name}")
    with pytest.raises(DataError) as caught:
        listed(tmp_path)
    shown = repr(f"sub/{name}")
    assert str(caught.value) == (
        f"{shown}: such a name is not read\n  cure: rename it: text, without control characters"
    )


@pytest.mark.parametrize("uri", ["", "a\x00b", "a\nb"])
def test_so_is_a_uri(uri: str) -> None:
    """Empty, it would mean wherever one stands."""
    with pytest.raises(DataError, match="such a name is not read"):
        listed(uri)


def special(path: Path, kind: str) -> Path:
    """Something that is not a file."""
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a device"])
def test_only_plain_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A FIFO would wait for ever, a device never end. Neither is touched, named or found; hidden ones are ignored."""
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, "in/a.csv")
    path = special(tmp_path / "special", kind)
    with pytest.raises(DataError) as caught:
        listed(path)
    cure = "name a file, a folder or a glob"
    assert str(caught.value) == f"{path}: {kind}, not a plain file\n  cure: {cure}"
    special(Path("in/.hidden"), kind)
    assert names("in") == ["a.csv"]
    special(Path("in/b.csv"), kind)
    with pytest.raises(DataError, match=f"b.csv: ({kind}, not a plain file|a link, and links are not followed)"):
        listed("in")
    assert names("in/a*") == ["a.csv"]


def test_links_are_not_followed_unless_told(tmp_path: Path) -> None:
    """Nor passed over: whoever put one there meant its rows. The source itself may be one."""
    tree(tmp_path, "in/a.csv")
    (tmp_path / "in/b.csv").symlink_to("a.csv")
    with pytest.raises(DataError) as caught:
        listed(tmp_path / "in")
    assert str(caught.value) == (
        f"{tmp_path}/in/b.csv: a link, and links are not followed\n"
        "  cure: remove it, or set data.follow_symlinks = true"
    )
    assert names(tmp_path / "in/a*") == ["a.csv"], "a link that is not asked for is no matter"
    (tmp_path / "current").symlink_to("in")
    assert names(tmp_path / "current/a.csv") == names(tmp_path / "current/a*") == ["a.csv"]
    assert names(tmp_path / "in/b.csv") == ["b.csv"]


def test_a_file_is_listed_once(tmp_path: Path) -> None:
    """Under its own name if that is listed, else under the first link's; loops of folders end."""
    tree(tmp_path, "sub/a.csv", "_store/v1", "_store/v2")
    (tmp_path / "0.csv").symlink_to("sub/a.csv")
    (tmp_path / "now.csv").symlink_to("_store/v2")
    (tmp_path / "today.csv").symlink_to("now.csv")
    (tmp_path / "again").symlink_to("sub")
    (tmp_path / "twice").symlink_to("sub")
    (tmp_path / "sub/loop").symlink_to("..")
    (tmp_path / "sub/self").symlink_to(".")
    assert names(tmp_path, follow_symlinks=True) == ["now.csv", "sub/a.csv"]
    assert names(tmp_path / "*.csv", follow_symlinks=True) == ["0.csv", "now.csv"]
    assert names(tmp_path / "a*/*.csv", follow_symlinks=True) == ["again/a.csv"]


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("../outside.csv", "a link that leads out of the source's folder"),
        ("../in-beside/a.csv", "a link that leads out of the source's folder"),
        ("/", "a link that leads out of the source's folder"),
        ("none", "a link that leads nowhere: No such file or directory"),
        ("link.csv", "a link that leads nowhere: Too many levels of symbolic links"),
    ],
)
def test_links_stay_inside(tmp_path: Path, target: str, what: str) -> None:
    """Whoever may write to the folder must not have other files read."""
    tree(tmp_path, "in/a.csv", "outside.csv", "in-beside/a.csv")
    (tmp_path / "in/link.csv").symlink_to(target)
    with pytest.raises(DataError) as caught:
        listed(tmp_path / "in", follow_symlinks=True)
    assert f"{tmp_path}/in/link.csv: {what}" in str(caught.value)


def test_very_deep_folders(tmp_path: Path) -> None:
    """Deeper than Python calls go."""
    folder = str(tmp_path)
    for _ in range(1500):
        folder += "/d"
        os.mkdir(folder)
    tree(tmp_path, "d/a.csv")
    assert names(tmp_path) == ["d/a.csv"]
    os.removedirs(folder)  # here, for what clears up the folders of tests is recursive


def test_partition_keys_are_in_the_path(tmp_path: Path) -> None:
    """Decoded; a value may be empty, hold a slash or `=`; a key may begin with `_`."""
    tree(tmp_path, "_y=2024/c=C%C3%B4te%2F=/p.csv", "_y=2024/c=/p.csv", "_tmp/p.csv", "_y=2025/c=%/_x.csv")
    keys = {it.name: it.keys for it in listed(tmp_path, partitioning="hive")}
    assert keys == {
        "_y=2024/c=/p.csv": (("_y", "2024"), ("c", "")),
        "_y=2024/c=C%C3%B4te%2F=/p.csv": (("_y", "2024"), ("c", "Côte/=")),
    }
    assert [it.keys for it in listed(tmp_path / "_y=2024")] == [(), ()], "only where it is declared"
    assert [it.keys for it in listed(tmp_path / "_y=2024/c=/p.csv", partitioning="hive")] == [()]


@pytest.mark.parametrize(
    ("paths", "what"),
    [
        (("a=1/p.csv", "b/p.csv"), "the folder 'b' of 'b/p.csv' is not key=value"),
        (("a=1/x/p.csv",), "the folder 'x' of 'a=1/x/p.csv' is not key=value"),
        (("=1/p.csv",), "the folder '=1' of '=1/p.csv' is not key=value"),
        (("a=1/p.csv", "p.csv"), "partition keys differ: a in 'a=1/p.csv', none in 'p.csv'"),
        (("a=1/b=1/p.csv", "a=2/p.csv"), "partition keys differ: a, b in 'a=1/b=1/p.csv', a in 'a=2/p.csv'"),
        (("a=1/b=1/p.csv", "b=1/a=1/p.csv"), "partition keys differ: a, b in 'a=1/b=1/p.csv', b, a in 'b=1/a=1/p.csv'"),
        (("a=1/A=1/p.csv", "a=1/a=1/p.csv"), "a key stands twice in 'a=1/a=1/p.csv'"),
        (("a=%FF/p.csv",), "the folders of 'a=%FF/p.csv' do not decode to UTF-8"),
    ],
)
def test_partitions_agree(tmp_path: Path, paths: tuple[str, ...], what: str) -> None:
    """One layout for all files, or an error that names the two."""
    tree(tmp_path, *paths)
    with pytest.raises(DataError) as caught:
        listed(tmp_path, partitioning="hive")
    assert (caught.value.what, caught.value.where) == (what, str(tmp_path))
    assert len(listed(tmp_path)) == len(paths), "without partitioning a path is a name"


PARTS = st.sampled_from(["a", "b", "ab", "a.csv", ".h", "_t", "é"])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(PARTS, min_size=1, max_size=4),
    st.lists(PARTS | st.sampled_from(["*", "?", "**", "a*", "[ab]"]), min_size=1),
)
def test_a_pattern_matches_as_its_parts_do(name: list[str], parts: list[str]) -> None:
    """Against the definition: `**` is any number of visible folders, or everything below at the end."""

    def matches(name: list[str], parts: list[str]) -> bool:
        if not parts or not name:
            return not name and all(part == "**" for part in parts)
        if parts[0] == "**":
            return matches(name, parts[1:]) or (name[0][0] not in "._" and matches(name[1:], parts))
        one = Pattern((parts[0],)).matches(name[0])
        return one and matches(name[1:], parts[1:])

    assert Pattern(tuple(parts)).matches("/".join(name)) == matches(name, parts)


def test_the_bundled_example_is_written_once(tmp_path: Path) -> None:
    """1,797 images of 64 pixels; another name is refused."""
    example = Data(uri="sklearn:digits")
    (file,) = files(example, workspace=tmp_path)
    assert files(example, workspace=tmp_path) == [file]
    assert (file.uri, file.name) == (str(tmp_path / "sources/digits.parquet"), "digits.parquet")
    assert pq.read_metadata(file.uri).num_rows == 1797
    assert os.listdir(tmp_path / "sources") == ["digits.parquet"]
    with pytest.raises(DataError, match=r"data\.uri: no example table 'iris'\n  cure: sklearn:digits"):
        listed("sklearn:iris")
