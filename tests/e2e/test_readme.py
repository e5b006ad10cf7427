"""The README is true: its commands run, its snippets work on what the demo left, its tree exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT, Demo, latentpipe, small_csv

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_one_command_is_the_demo() -> None:
    """`make demo` installs by the constraints and runs the demo's TOML, nothing else."""
    assert blocks("sh")[0] == "make demo\n"
    make = ["make", "--always-make", "--dry-run", "--no-print-directory", "demo"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    recipe = subprocess.run(make, cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout
    assert "--constraint constraints.txt --editable .\n" in recipe
    assert recipe.splitlines()[-1] == ".venv/bin/latentpipe run deploy/runs/demo.toml"


@pytest.mark.parametrize("snippet", blocks("python"), ids=lambda it: it.split("\n")[0])
def test_snippets_run_on_what_the_demo_left(demo: Demo, snippet: str) -> None:
    """Each Python block runs as it stands, beside the demo's workspace."""
    ended = subprocess.run(
        [sys.executable, "-c", snippet], cwd=demo.workspace.parent, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr


def test_commands_run_in_their_order(tmp_path: Path) -> None:
    """A newcomer's table goes through every command of the README."""
    small_csv(tmp_path / "people.csv")
    commands = [line for block in blocks("sh")[1:] for line in block.splitlines()]
    assert len(commands) == 16
    for command in commands:
        _, *arguments = command.split()
        ended = latentpipe(*arguments, cwd=tmp_path)
        assert ended.code == 0, f"{command}\n{ended.stderr}"


def test_the_output_shown_is_what_the_demo_prints(demo: Demo) -> None:
    """The same lines, up to times and paths; and the workspace holds what the README lists."""
    shown, left, _ = blocks("text")
    ended = latentpipe(*demo.arguments, cwd=demo.workspace.parent)
    printed = ended.stdout.splitlines()
    assert len(printed) <= 12
    assert [line.split("  ")[0] for line in printed[1:]] == [line.split("  ")[0] for line in shown.splitlines()[1:]]
    same = ("rows ", "training ", "test ELBO ", "test NLL ", "latents ", "model ")
    cut = [
        [re.sub(r", [\d,]+ rows/s", "", it) for it in lines if it.startswith(same)]
        for lines in (printed, shown.splitlines())
    ]
    assert cut[0][0] == cut[1][0]
    names = re.findall(r"[\w.]+(?=/| )", " ".join(line[:29] for line in left.splitlines()[1:]))
    assert all((demo.workspace / name).exists() for name in names if not name.startswith(("digits", "v0")))


def test_the_tree_and_the_links_exist() -> None:
    """Every path that the README names is there."""
    tree = blocks("text")[-1]
    paths = [line.split()[0] for line in tree.splitlines()] + re.findall(r"\]\(([^)#]+)\)", README)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing, missing
    assert os.fspath(ROOT) not in README
