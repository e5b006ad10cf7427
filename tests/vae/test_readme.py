"""The page of vae/ is true: its blocks run, its names and links exist, and no setting is missing from it."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

import vae
from vae import checkpoint, config
from vae.likelihoods import LIKELIHOODS

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "vae"
PAGE = (PACKAGE / "README.md").read_text()
MODULES = {
    module.name.removeprefix("vae.").removeprefix("likelihoods."): importlib.import_module(module.name)
    for module in pkgutil.walk_packages(vae.__path__, "vae.")
}
CLASSES = {
    name: each
    for module in MODULES.values()
    for name, each in inspect.getmembers(module, inspect.isclass)
    if each.__module__.startswith("vae.")
}
SETTINGS = (config.Column, config.Network, config.Objective)


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def spans(page: str) -> list[str]:
    """What stands between single backticks, outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE))


def choices(hint: Any) -> Iterator[str]:
    """Every word that a setting's type offers."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)


def members(kind: type) -> set[str]:
    """Attributes and fields of a class."""
    return {*dir(kind), *getattr(kind, "__annotations__", ())}


def words() -> set[str]:
    """Every single word of the package: modules, what they define, fields, parameters, choices, and its files."""
    known = {*MODULES, *CLASSES, checkpoint.CONFIG, checkpoint.WEIGHTS, checkpoint.CHECKSUMS, *LIKELIHOODS}
    for module in MODULES.values():
        known |= {name for name in vars(module) if not name.startswith("_")}
        known |= {each.arg for each in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(each, ast.arg)}
    for kind in CLASSES.values():
        known |= members(kind)
    for kind in SETTINGS:
        known |= {word for hint in get_type_hints(kind).values() for word in choices(hint)}
    return known


def exists(name: str) -> bool:
    """Whether `a.b` is something in a module or a class of vae, or a test in a file of the tests beside this one."""
    owner, _, rest = name.partition(".")
    if owner.startswith("test_"):
        return any(f"\ndef {rest}(" in path.read_text() for path in HERE.rglob(f"{owner}.py"))
    if owner in CLASSES:
        return rest in members(CLASSES[owner])
    found: Any = MODULES.get(owner)
    for part in rest.split("."):
        found = getattr(found, part, None)
    return found is not None


def unknown(page: str) -> list[str]:
    """Names in backticks, and dotted ones in text blocks, that nothing in vae has."""
    single = [name for name in spans(page) if re.fullmatch(r"[A-Za-z_]\w+|\w+\.(json|safetensors)", name)]
    texts = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    dotted = [name for name in spans(page) if re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+(\(\w*\))?", name)]
    dotted += re.findall(r"\b[A-Za-z]+\.[A-Za-z]\w*", "\n".join(texts))
    dotted = [name.partition("(")[0] for name in dotted if name not in single]
    known = words()
    return [name for name in single if name not in known] + [name for name in dotted if not exists(name)]


@pytest.fixture
def register() -> Iterator[None]:
    """The register of likelihoods, as it was once the test is over."""
    before = dict(LIKELIHOODS)
    yield
    LIKELIHOODS.clear()
    LIKELIHOODS.update(before)


@pytest.mark.usefixtures("register")
def test_the_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every Python block runs as it stands, in order; what is said to be printed is, up to the digits."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    with torch.random.fork_rng(devices=[]):
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), names)  # noqa: S102
    printed, shown = capsys.readouterr().out.splitlines(), blocks("text")[0].splitlines()
    assert re.sub(r"\d", "0", printed[0]) == re.sub(r"\d", "0", shown[0])
    assert torch.equal(names["same"].mean.weight, names["model"].mean.weight)


def test_the_recipe_for_a_likelihood_works(tmp_path: Path) -> None:
    """In a copy of the package the page's class and its one line make a column that trains, is judged and saved."""
    copy = tmp_path / "vae"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (definition,) = (block for block in blocks("python") if "class Logistic" in block)
    before, after = (line[1:] for line in blocks("diff")[0].splitlines())
    settings = (copy / "config.py").read_text()
    assert settings.count(f"{before}\n") == 1
    (copy / "config.py").write_text(settings.replace(f"{before}\n", f"{after}\n"))
    with (copy / "likelihoods" / "real.py").open("a") as home:
        home.write(re.sub(r"^from vae.*\n", "", definition, flags=re.MULTILINE))
    use = blocks("python")[0].replace('likelihood="gaussian"', 'likelihood="logistic"')
    use = use.replace("range(300)", "range(3)")
    use += "from vae import checkpoint\ncheckpoint.save(model, 'm'); checkpoint.seal('m'); checkpoint.load('m')\n"
    use += "assert 'logistic' in vae.likelihoods.LIKELIHOODS and vae.__file__.startswith(str(pathlib.Path.cwd()))\n"
    script = f"import pathlib\nimport vae.likelihoods\n{use}"
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("NLL ")


def test_the_names_exist() -> None:
    """Every name in backticks is one of vae's modules, classes, functions, settings, choices, files or tests."""
    assert unknown(PAGE) == []


def test_a_name_that_does_not_exist_is_seen() -> None:
    """Meta: names that nothing has are found in each place where names are looked for."""
    wrong = ["fit.Losses", "VAE.enc", "Sparse", "test_linear.test_nothing", "gaussain", "nothing.json"]
    page = "and ".join(f"`{name}` " for name in wrong) + "\n```text\nx  objectives.none\n```\n"
    assert set(unknown(page)) == {*wrong, "objectives.none"}


def test_the_links_exist() -> None:
    """Every path that is linked is there, from the page's own place; every anchor is a heading."""
    targets = re.findall(r"\]\(([^)]+)\)", PAGE)
    headings = {re.sub(r"[^\w-]", "", line.lower().replace(" ", "-")) for line in re.findall(r"^#+ (.*)$", PAGE, re.M)}
    assert len(targets) > 3
    for target in targets:
        path, _, anchor = target.partition("#")
        assert (PACKAGE / path).exists(), target
        assert not anchor or anchor in headings, target


def missing(page: str) -> set[str]:
    """Likelihoods, settings and choices that stand nowhere in the page's code."""
    fences = re.findall(r"^```\w+\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    said = set(re.findall(r"\w+", " ".join([*spans(page), *fences])))
    wanted = {*get_args(config.LikelihoodName), *LIKELIHOODS}
    for kind in SETTINGS:
        hints = get_type_hints(kind)
        wanted |= {field.name for field in dataclasses.fields(kind)}
        wanted |= {word for hint in hints.values() for word in choices(hint)}
    return wanted - said


def test_nothing_is_left_out() -> None:
    """Each likelihood, each field of Column, Network and Objective, and each of their choices is named in code."""
    assert missing(PAGE) == set()


def test_what_is_left_out_is_seen() -> None:
    """Meta: a page without a likelihood, a setting or a choice is found out."""
    for word in ("ordinal", "free_bits", "residual"):
        assert word in missing(PAGE.replace(word, "it"))


def test_the_page_is_as_wide_as_the_code() -> None:
    """No line is longer than 120 characters, and no path of a machine is in it."""
    assert max(map(len, PAGE.splitlines())) <= 120
    assert str(PACKAGE.parent) not in PAGE
