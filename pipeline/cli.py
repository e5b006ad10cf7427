"""The command line: `latentpipe VERB run.toml`. Imports inside functions: `--help` costs nothing."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from pipeline.config import RunConfig

EXIT_CODES: Final = """exit codes: 0 ok, 2 usage or config, 3 data contract, 4 infrastructure (trying again may help),
5 commit conflict, 130 Ctrl-C, 143 SIGTERM"""
RESUME: Final = "stopped; nothing half-done is visible. The same command again goes on from the last checkpoint."

MEMORY: Final = {"MIMALLOC_PURGE_DELAY": "10000"}
"""Arrow's allocator keeps pages for 10 s before it gives them back: to ask anew took a third of an ingest's time."""

Answer = tuple[dict[str, Any], list[str]]
Verb = Callable[["RunConfig", argparse.Namespace], Answer]


def main(argv: Sequence[str] | None = None, *, run: Verb | None = None) -> NoReturn:
    """Parse, do, print, exit. `run` does the whole way; who has Prefect hands it in."""
    arguments = _parser(run).parse_args(argv)
    os.environ.update({name: os.environ.get(name, value) for name, value in MEMORY.items()})
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code, answer, lines = _attempt(arguments)
    if arguments.json:
        print(json.dumps(answer))
    else:
        for line in lines:
            print(line)
    sys.stdout.flush()
    sys.exit(code)


def _attempt(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], list[str]]:
    from pipeline.errors import LatentpipeError

    try:
        answer, lines = arguments.do(arguments)
    except LatentpipeError as error:
        if arguments.debug:
            traceback.print_exc()
        return error.exit_code, _failed(error.exit_code, str(error)), []
    except OSError as error:
        if arguments.debug:
            traceback.print_exc()
        return 4, _failed(4, f"{error.filename or 'the system'}: {error.strerror or error}"), []
    except KeyboardInterrupt:
        return 130, _failed(130, RESUME), []
    except SystemExit as end:
        return 143, _failed(143, RESUME) if end.code == 143 else _failed(1, str(end)), []
    return int(answer.pop("exit_code", 0 if answer.get("ok", True) else 4)), answer, lines


def _failed(code: int, message: str) -> dict[str, Any]:
    print(f"latentpipe: {message}", file=sys.stderr)
    return {"ok": False, "exit_code": code, "error": message}


def _terminated(signum: int, frame: Any) -> NoReturn:
    sys.exit(128 + signum)


def _parser(run: Verb | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="latentpipe", description="Rows in, latent codes out.", epilog=EXIT_CODES)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    init = _verb(verbs, "init", "look at a table and write a run's TOML", _init, file=False)
    init.add_argument("--data", required=True, help="file, folder or glob")
    init.add_argument("--out", help="the TOML to write (default: NAME.toml)")
    init.add_argument("--name", default="", help="name of the run (default: the file's)")
    init.add_argument("--force", action="store_true", help="overwrite the TOML")
    if run is not None:
        _verb(verbs, "run", "the whole way, as one Prefect flow", _with_config(run))
    _verb(verbs, "plan", "what would be done, and why; writes nothing", _with_config(_plan))
    _verb(verbs, "ingest", "table -> typed, immutable Parquet snapshot", _with_config(_ingest))
    _verb(verbs, "train", "snapshot -> best model (Ray Train)", _with_config(_train))
    _verb(verbs, "register", "model -> version, maybe champion (MLflow)", _with_config(_register))
    _verb(verbs, "encode", "champion and snapshot -> latents in Parquet (Ray Data)", _with_config(_encode))
    _verb(verbs, "reduce", "latents -> 2-D coordinates", _with_config(_reduce))
    _verb(verbs, "report", "one HTML page about the latents", _with_config(_report))
    _verb(verbs, "compare", "the family of autoencoders and PCA on this table", _with_config(_compare))
    _verb(verbs, "tune", "better settings for this table (Ray Tune), as a TOML", _with_config(_tune))
    sample = _verb(verbs, "sample", "new rows, decoded from the prior", _with_config(_sample))
    sample.add_argument("--rows", type=int, default=1000, help="how many, at least 1 (default: 1000)")
    sample.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    _verb(verbs, "snapshots", "what was published, when, by what", _with_config(_snapshots))
    gc = _verb(verbs, "gc", "delete what tries that died have left", _with_config(_gc))
    gc.add_argument("--older-than", default="24h", metavar="AGE", help="by the store's clock (default: 24h)")
    gc.add_argument("--dry-run", action="store_true", help="only name it")
    rollback = _verb(verbs, "rollback", "publish an older version anew, as the newest", _with_config(_rollback))
    rollback.add_argument("version", help="such as v000007, or 7")
    rollback.add_argument("--kind", default="latents", choices=["datasets", "latents", "reduced", "samples"])
    check = _verb(verbs, "check", "would these files be taken in? each read alone, bounded", _check, file=False)
    check.add_argument("paths", nargs="+", metavar="PATH", help="file or folder")
    check.add_argument("--contract", metavar="TOML", help="a run's TOML; without it, what the file itself suggests")
    contract = _verb(verbs, "contract", "what changed between two contracts", _contract, file=False)
    contract.add_argument("do_what", choices=["diff"])
    contract.add_argument("old", help="contract.toml, run's TOML, or snapshot")
    contract.add_argument("new", help="the same, newer")
    _verb(verbs, "doctor", "is everything here, and does it work?", _doctor, optional=True)
    return parser


def _verb(
    verbs: Any,
    name: str,
    text: str,
    do: Callable[[argparse.Namespace], Answer],
    *,
    file: bool = True,
    optional: bool = False,
) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
    if file:
        verb.add_argument("file", nargs="?" if optional else None, help="the run's TOML")
        verb.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one setting")
    verb.add_argument("--json", action="store_true", help="print one JSON object, last")
    verb.add_argument("--debug", action="store_true", help="print tracebacks")
    verb.set_defaults(do=do)
    return verb


def _with_config(verb: Verb) -> Callable[[argparse.Namespace], Answer]:
    def do(arguments: argparse.Namespace) -> Answer:
        from pipeline.agree import agree
        from pipeline.progress import native_noise_to
        from pipeline.runfile import load

        config = agree(load(arguments.file, overrides=tuple(arguments.set)))
        with native_noise_to(config.root / "logs" / "native.log"):
            return verb(config, arguments)

    return do


def _facts(record: Any) -> Answer:
    facts = asdict(record)
    return facts, [f"{name:<14} {value}" for name, value in facts.items()]


def _init(arguments: argparse.Namespace) -> Answer:
    from pipeline.errors import ConfigError
    from pipeline.init import default_name, init

    name = arguments.name or default_name(arguments.data)
    text = init(arguments.data, name=name)
    path = Path(arguments.out or f"{name}.toml")
    if path.exists() and not arguments.force:
        raise ConfigError("the file exists already", str(path), "--out another one, or --force")
    path.write_text(text, encoding="utf-8")
    lines = [text, f"written to {path}", f"next: look at it, then latentpipe run {path}"]
    return {"path": str(path)}, lines


def _plan(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    from pipeline.plan import plan

    planned = plan(config)
    return planned.to_dict(), planned.lines()


def _ingest(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    from pipeline.ingest import ingest

    return _facts(ingest(config))


def _train(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    from pipeline import ingest, train

    return _facts(train.train(config, ingest.latest(config)))


def _register(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    from pipeline import ingest, register, train

    return _facts(register.register(config, train.latest(config, ingest.latest(config))))


def _encode(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    from pipeline import encode, ingest, register

    return _facts(encode.encode(config, register.champion(config), ingest.latest(config)))


def _reduce(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    from pipeline import encode, reduce

    return _facts(reduce.reduce(config, encode.latest(config)))


def _report(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    from pipeline import encode, reduce, report

    encoded = encode.latest(config)
    return _facts(report.report(config, encoded, reduce.latest(config, encoded)))


def _compare(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    from pipeline import compare, ingest

    compared = compare.compare(config, ingest.ingest(config))
    table = Path(compared.table).read_text(encoding="utf-8").splitlines()
    return asdict(compared), [*table, f"table   {compared.table}", f"figure  {compared.figure}"]


def _tune(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    from pipeline import ingest, tune

    tuned = tune.tune(config, ingest.ingest(config))
    return asdict(tuned), tune.lines(tuned)


def _sample(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    from pipeline import register, sample

    return _facts(sample.sample(config, register.champion(config), rows=arguments.rows, seed=arguments.seed))


def _snapshots(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    from pipeline.history import published

    found = published(config)
    return {"snapshots": [asdict(it) for it in found]}, [it.line() for it in found] or ["nothing was published yet"]


def _gc(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    from pipeline.history import sweep

    found = sweep(config, older_than=arguments.older_than, dry_run=arguments.dry_run)
    done = "would be deleted" if arguments.dry_run else "deleted"
    return {"deleted": found, "dry_run": arguments.dry_run}, [*found, f"{len(found)} {done}"]


def _rollback(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    from pipeline.history import rollback

    snapshot = rollback(config, arguments.version, kind=arguments.kind)
    facts = {"snapshot": str(snapshot.directory), "key": snapshot.key, "rows": snapshot.manifest["rows"]}
    return facts, [f"{name:<14} {value}" for name, value in facts.items()]


def _check(arguments: argparse.Namespace) -> Answer:
    from pipeline.agree import agree
    from pipeline.check import check, summary
    from pipeline.runfile import load

    config = agree(load(arguments.contract)) if arguments.contract else None
    verdicts = []
    for verdict in check(arguments.paths, config=config):
        verdicts.append(verdict)
        print(json.dumps(asdict(verdict)), flush=True)
    found = summary(verdicts)
    lines = [", ".join(f"{value:,} {name}" for name, value in found.items() if name != "ok")]
    return {**found, "exit_code": 0 if found["ok"] else 3}, lines


def _contract(arguments: argparse.Namespace) -> Answer:
    from pipeline.contract import contract_diff

    return contract_diff(arguments.old, arguments.new)


def _doctor(arguments: argparse.Namespace) -> Answer:
    from pipeline.doctor import doctor
    from pipeline.runfile import load, parse

    bare = {"name": "doctor", "data": {"uri": "-"}, "columns": {"x": {"type": "float32", "likelihood": "gaussian"}}}
    config = load(arguments.file, overrides=tuple(arguments.set)) if arguments.file else parse(bare)
    findings = doctor(config)
    lines = [f"{'ok  ' if it.ok else 'FAIL'} {it.check:<9} {it.detail}" for it in findings]
    return {"ok": all(it.ok for it in findings), "checks": [asdict(it) for it in findings]}, lines
