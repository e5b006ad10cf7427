"""verify and explain on what the demo left, through the real registry, as a person would call them."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness import Demo, latentpipe


def test_the_demo_is_what_it_says(demo: Demo) -> None:
    """Rows computed anew by the version in MLflow, and every check passed."""
    ended = latentpipe("verify", demo.latents.parent, "--json", cwd=demo.workspace)
    assert ended.code == 0, ended.stderr
    assert {it["outcome"] for it in ended.answer["checks"]} == {"ok"}
    (sample,) = [it["detail"] for it in ended.answer["checks"] if it["name"] == "sample"]
    assert sample.startswith("100 rows computed anew by digits/1")
    assert "from the registry: equal to the bit" in sample


def test_a_flipped_bit_is_named(demo: Demo, tmp_path: Path) -> None:
    """In a copy: exit 3, the file, the cure."""
    copy = tmp_path / "latents" / "digits" / demo.latents.name
    shutil.copytree(demo.latents, copy)
    path = min(copy.glob("*.parquet"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    ended = latentpipe("verify", copy, "--sample", "0", cwd=tmp_path)
    assert ended.code == 3
    assert f"FAIL  {path.name}: its bytes changed" in ended.stdout
    assert "cure: restore the file" in ended.stdout


def test_a_digit_is_followed_to_its_source(demo: Demo) -> None:
    """The registered model with its MLflow run, and the same pixels in the source as in the dataset."""
    ended = latentpipe("explain", demo.latents, "1796", "--json", cwd=demo.workspace)
    assert ended.code == 0, ended.stderr
    chain = ended.answer
    assert (chain["model"]["name"], chain["model"]["version"]) == ("digits", 1)
    assert chain["model"]["mlflow_run"] == demo.summary["registered"]["mlflow_run"]
    assert chain["source"]["row"] == 1796
    assert chain["source"]["cells"]["pixels"] == chain["dataset"]["cells"]["pixels"]
