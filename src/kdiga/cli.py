"""The command line: each verb checks its arguments and calls one function. Nothing heavy is imported before a verb runs."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from kdiga import __version__
from kdiga.errors import BadInput, Stopped

if TYPE_CHECKING:
    from kdiga.recipe import Recipe
    from kdiga.report.rows import Row

ABOUT = """\
Distil robust image classifiers into small students that stay robust, and prove it.

  kdiga demo                                         see it work: two minutes, no download
  kdiga teach --data fashion-mnist --model cnn?width=24 --out runs/teacher
  kdiga distill --data fashion-mnist --teacher runs/teacher --student 'cnn?width=12&act=gelu' --out runs/student
  kdiga compare runs/teacher runs/student --data fashion-mnist --out runs/comparison

A MODEL is a built-in network (kdiga list models), timm:NAME, torchvision:NAME, a run folder, or a weight file with its
architecture (PATH.pt?arch=resnet-18); options follow a question mark (cnn?width=12&act=silu).
Robust accuracy means AutoAttack (standard); anything weaker is named for what it is.
"""
DEMO = """\
Trains a robust teacher and, at a quarter of its weights, students by cross-entropy, distillation (KD), KDIGA at the clean and at a random
point, and KDIGA on projected logits; attacks all six with AutoAttack. No network, no download, a minute or two on two cores. Leaves a
table, results.json and a page."""
TEACH = """\
  kdiga teach --data digits --model 'cnn?width=24' --out runs/teacher
  kdiga teach --data cifar10 --model wrn-28-10 --objective trades --set epochs=100 --out runs/trades
  kdiga teach fashion-teacher --out runs/fashion/teacher          a recipe that ships with kdiga

PGD adversarial training by default. What is not said is taken from the recipe, then from the defaults; RUN/recipe.toml records all of it."""
DISTILL = """\
  kdiga distill --teacher runs/teacher --student 'cnn?width=12&act=gelu' --set point=random --out runs/student
  kdiga distill --data cifar10 --teacher 'resnet.pt?arch=resnet-18' --student mobilenet-v2 --objective kd --out runs/kd

KDIGA by default. A smooth activation (?act=silu, ?act=gelu) lets the alignment of input gradients work; with ReLU it under-fits."""
EVALUATE = """\
  kdiga evaluate runs/student --data digits --out runs/student-evaluated
  kdiga evaluate 'weights.pt?arch=resnet-18' --data cifar10 --eps 8/255 --n 1000 --out runs/theirs

  kdiga evaluate runs/student --data cifar10 --n 10000 --budget 2h --out runs/student-evaluated

Attacks run only on what the model classifies right; AutoAttack's four only on what is left. An interrupted evaluation goes on with --resume.
A long one says before it begins what it may take; --budget attacks as many images as fit into that time whatever the outcomes.
All 10,000 test images of CIFAR at RobustBench's eps leave an entry for its leaderboard in robustbench/."""
COMPARE = """\
  kdiga compare runs/teacher runs/student --data digits --out runs/comparison

The same images, threat and attacks for every model. A model whose recipe another names as its teacher heads the table."""
METHODS = """\
  kdiga compare-methods methods-digits --out runs/methods             a recipe that ships with kdiga
  kdiga compare-methods mine.toml --only kd,kdiga --seeds 0 --set epochs=2 --out runs/trial

The recipe is one for `kdiga distill` without [objective], with seeds = [0, 1, 2] and a table [methods.NAME] for each method, whose keys are
those that --set takes: objective (NAME if not said), its options, epochs, model ... Every method is trained with every seed from the same
weights and in the same data order, and attacked on the same test images. The table says accuracy (mean and standard deviation over seeds),
p against the next method, the alignment of input gradients, training time and what a step costs. Ctrl-C keeps what is done for --resume;
without --only, --resume completes the table."""
MEASURE = """\
  kdiga measure runs/teacher runs/student --data digits --out runs/measured
  kdiga measure runs/* --data digits --measures local-linearity,smoothing-radius --set sigma=0.1 --out runs/smoothed

Attacks the models and measures them on the same images, says which measure foretells the attacks, and draws a page of plots.
`kdiga list measures` says what can be measured; --set NAME=VALUE sets an option of every measure that has it, --set MEASURE.NAME=VALUE of one.
Measures that compare with a teacher take it from the models' recipes, or from --teacher."""
REPORT = "No model is run: the page is drawn from what the folder holds (results.json, report.json, pictures.safetensors)."
LIST = """\
  kdiga list objectives       what training can minimise, each with a line and the paper it is from
  kdiga list objectives NAME  one of them: its formula, where it differs from its authors' code, its options and their defaults
  kdiga list recipes          what `kdiga teach NAME` and `kdiga distill NAME` find without a file"""
CITE = """\
  kdiga cite kdiga trades     the papers behind two objectives
  kdiga cite autoattack       those behind an attack: AutoAttack's own, FAB's and Square's

A NAME is an objective or an attack (kdiga list), pgd or autoattack. Papers that several names share are printed once."""
TOLD_FROM = 60.0  # seconds that an evaluation may take, from which on it says so before it begins
ASKED = "asked.json"  # in a comparison: what was asked for, so that --resume can hold on to it
KINDS = ("objectives", "attacks", "measures", "models", "datasets", "recipes")


class Parser(argparse.ArgumentParser):
    """argparse with one line for an error, that says where help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"kdiga: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb. Returns 0, 1 for a run that had to stop, 2 for input that cannot be used, 130 after Ctrl-C."""
    # Idle OpenMP threads sleep instead of spinning: on a busy machine spinning makes small training steps ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments) or 0
    except BadInput as error:
        code = _say(error, 2)
    except Stopped as error:
        code = _say(error, 1)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "out of memory" not in str(error):
            raise
        code = _say(
            "out of memory: try a smaller batch (--set batch_size=64, or --batch-size when evaluating) or a smaller model", 1
        )
    except BrokenPipeError:  # `kdiga list models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        code = _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}; what was saved before is kept", 2)
    except KeyboardInterrupt:
        code = _say("interrupted; what was saved is kept, and where a folder was begun the same command with --resume goes on", 130)
    return code


def _say(message: object, code: int) -> int:
    print(f"kdiga: {' '.join(str(message).split())}", file=sys.stderr)
    return code


def parser() -> argparse.ArgumentParser:
    """The verbs and their flags."""
    top = Parser(prog="kdiga", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"kdiga {__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, text: str, more: str) -> argparse.ArgumentParser:
        kept = argparse.RawDescriptionHelpFormatter
        return verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.\n\n{more}", formatter_class=kept)

    demo = verb("demo", "a teacher, five students and their evaluation on scikit-learn's digits", DEMO)
    demo.add_argument("--seed", type=int, default=0)
    _folder(demo, Path("runs/demo"))
    demo.set_defaults(run=_demo)

    teach = verb("teach", "train a robust teacher, or any model without a teacher", TEACH)
    _training(teach)
    teach.add_argument("--model", metavar="SPEC", help="the network to train, cnn by default")
    teach.set_defaults(run=_train, default="pgd_at")

    distill = verb("distill", "train a student from a robust teacher", DISTILL)
    _training(distill)
    distill.add_argument("--teacher", metavar="MODEL", help="run folder, weights, or timm: name of the teacher")
    distill.add_argument("--standard-teacher", metavar="MODEL", help="a teacher trained without attacks (mtard, igd)")
    distill.add_argument("--student", metavar="SPEC", help="the network to train; one with weights is trained further")
    distill.set_defaults(run=_train, default="kdiga")

    evaluate = verb("evaluate", "clean and robust accuracy of one model, with intervals", EVALUATE)
    evaluate.add_argument("models", metavar="MODEL", nargs=1)
    _measuring(evaluate, Path("runs/evaluation"))
    _budget(evaluate)
    _health(evaluate)
    evaluate.set_defaults(run=_compare)

    compare = verb("compare", "evaluate several models alike: one table and one page", COMPARE)
    compare.add_argument("models", metavar="MODEL", nargs="+")
    _measuring(compare, Path("runs/comparison"))
    _budget(compare)
    _health(compare)
    compare.set_defaults(run=_compare)

    methods = verb("compare-methods", "train several objectives alike and compare them: one table and one page", METHODS)
    methods.add_argument("recipe", metavar="RECIPE.toml", help="a recipe with methods, or the name of one that ships: methods-...")
    methods.add_argument("--only", metavar="NAME,...", help="these methods of the recipe")
    methods.add_argument("--seeds", metavar="N,...", help="these seeds instead of the recipe's")
    methods.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a value of the recipe, for all methods: epochs=2"
    )
    methods.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        help="runs at a time, each in a process with one thread (default: one for each core, on a GPU one)",
    )
    _folder(methods, None)
    methods.add_argument("--resume", action="store_true", help="go on with what --out already holds")
    methods.add_argument("--root", metavar="DIR", type=Path, help="where the data sets lie (default: $KDIGA_DATA or ./data)")
    methods.set_defaults(run=_compare_methods)

    measure = verb("measure", "local linearity, alignment, transfer bounds and certificates, held against attacks", MEASURE)
    measure.add_argument("models", metavar="MODEL", nargs="+")
    measure.add_argument(
        "--measures", metavar="NAME,...", help="what to measure (kdiga list measures); what explains robust transfer by default"
    )
    measure.add_argument(
        "--teacher", metavar="MODEL", help="what to compare with (default: the teacher that the models' recipes name)"
    )
    measure.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="an option of the measures: sigma=0.25, clever.radius=0.5"
    )
    _measuring(measure, Path("runs/measured"))
    measure.set_defaults(run=_measure)

    report = verb("report", "draw the HTML page of a run, comparison or demo again and print its table", REPORT)
    report.add_argument("folder", metavar="RUN", type=Path)
    report.set_defaults(run=_report)

    listing = verb("list", "what can be named: " + ", ".join(KINDS), LIST)
    listing.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    listing.add_argument("name", nargs="?", metavar="NAME", help="an objective or a measure, to see all about it")
    listing.set_defaults(run=_list)

    cite = verb("cite", "BibTeX for what was used", CITE)
    cite.add_argument("names", metavar="NAME", nargs="+", help="an objective, an attack, pgd or autoattack")
    cite.set_defaults(run=_cite)
    return top


def _training(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "recipe", metavar="RECIPE.toml", nargs="?", help="a recipe file, or the name of one that ships (kdiga list recipes)"
    )
    verb.add_argument("--data", metavar="NAME", help="data set: digits, fashion-mnist, cifar10, npz:PATH, folder:PATH ...")
    verb.add_argument("--objective", metavar="NAME", help="what is minimised (kdiga list objectives)")
    verb.add_argument("--eps", help="size of the threat in image units: 8/255 or 0.031")
    verb.add_argument("--norm", help="linf (default) or l2")
    verb.add_argument("--seed", type=int)
    verb.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="any value of the recipe: epochs=10, iga_weight=3, n=200"
    )
    verb.add_argument("--no-evaluate", action="store_true", help="train only")
    _folder(verb, None)
    verb.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    verb.add_argument("--root", metavar="DIR", type=Path, help="where the data sets lie (default: $KDIGA_DATA or ./data)")


def _measuring(verb: argparse.ArgumentParser, out: Path) -> None:
    verb.add_argument("--data", metavar="NAME", default="digits")
    verb.add_argument(
        "--eps", help="size of the threat in image units: 8/255 or 0.031 (default: what the field uses for the data set)"
    )
    verb.add_argument("--norm", help="linf (default) or l2")
    verb.add_argument("--attacks", default="fgsm,pgd20,autoattack", help="comma-separated (kdiga list attacks)")
    verb.add_argument(
        "--n", type=int, default=1000, help="test images, a fixed stratified choice; all if there are fewer (default 1000)"
    )
    verb.add_argument("--batch-size", type=int, default=256)
    verb.add_argument("--device", default="auto")
    _folder(verb, out)
    verb.add_argument("--resume", action="store_true", help="go on with what --out already holds")
    verb.add_argument("--root", metavar="DIR", type=Path, help="where the data sets lie (default: $KDIGA_DATA or ./data)")


def _budget(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--budget", metavar="TIME", help="90s, 10m, 2h: as many of the --n images as surely fit, settled before any result is seen"
    )


def _health(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--health",
        action="store_true",
        help="also run the checks that need attacks of their own: is the robustness real? (a minute or so)",
    )


def _folder(verb: argparse.ArgumentParser, default: Path | None) -> None:
    verb.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=default,
        required=default is None,
        help="folder that everything is written to" + (f" (default {default})" if default else ""),
    )
    verb.add_argument("--overwrite", action="store_true", help="replace what is in --out")


def _demo(a: argparse.Namespace) -> int:
    from kdiga.demo import demo
    from kdiga.progress import live

    with live() as progress:
        rows = demo(a.out, seed=a.seed, overwrite=a.overwrite, progress=progress)
    return _show(rows, "kdiga demo: digits", a.out)


def _train(a: argparse.Namespace) -> int:
    from kdiga import data
    from kdiga.compare import compare, entry, load
    from kdiga.distill import run
    from kdiga.progress import live

    recipe = _recipe(a)
    with live() as progress:
        run(recipe, a.out, root=a.root, resume=a.resume, overwrite=a.overwrite, progress=progress)
        if a.no_evaluate:
            return 0
        chosen = [entry(a.out.resolve().name, str(a.out))]
        dataset = data.load(recipe.data, a.root)
        loaded = load(chosen, dataset)
        title, device = f"{chosen[0].name}: {dataset.name}, {recipe.threat}", recipe.train.device
        rows = compare(
            chosen, loaded, dataset, recipe.threat, recipe.evaluate, a.out, title=title, device=device, progress=progress
        )
    return _show(rows, title, a.out)


def _recipe(a: argparse.Namespace) -> "Recipe":
    """The recipe that file and flags describe; with --resume it must be the one the run began with."""
    from kdiga.methods import difference
    from kdiga.recipe import read, resolve

    names = ("data", "objective", "eps", "norm", "seed", "model", "teacher", "standard_teacher", "student")
    flags = {name: getattr(a, name, None) for name in names}
    begun = read(str(a.out / "recipe.toml")) if a.resume and (a.out / "recipe.toml").exists() else None
    if begun is not None and a.recipe is None:
        table = begun
    else:
        table = read(a.recipe)
        if not table.get("objective") and flags["objective"] is None:
            flags["objective"] = a.default
        if a.default == "kdiga" and not {"model", "student"} & table.keys() and flags["student"] is None:
            flags["student"] = "cnn?width=12&act=gelu"
    now = resolve(table, flags=flags, sets=a.set)
    if begun is not None and now != (before := resolve(begun)):
        raise BadInput(f"--resume goes on with the run as it began, but {difference(before, now)}")
    return now


def _compare(a: argparse.Namespace) -> int:
    from dataclasses import replace
    from time import perf_counter

    from kdiga import data, folder
    from kdiga.compare import compare, entries, foretell, load
    from kdiga.evaluate.cost import duration
    from kdiga.progress import live
    from kdiga.recipe import Testing, threat_for
    from kdiga.report import text
    from kdiga.report.sentence import expected
    from kdiga.train import pick_device

    threat, budget = threat_for(a.data, a.norm, a.eps), duration(a.budget) if a.budget is not None else None
    testing = Testing(attacks=_names(a.attacks), n=a.n, attack_batch=a.batch_size)
    asked = {"models": a.models, "data": a.data, "threat": str(threat), "attacks": list(testing.attacks), "n": a.n}
    asked |= {"batch": a.batch_size} | ({"budget": a.budget} if a.budget else {})
    folder.check_free(a.out, resume=a.resume, overwrite=a.overwrite, mark=ASKED, needed=[*a.models, a.data])
    n = _begun(a.out, asked) if a.resume else None
    pick_device(a.device)
    chosen = entries(a.models)
    dataset = data.load(a.data, a.root)
    loaded = load(chosen, dataset)
    told = None
    if n is None:
        n, each = foretell(loaded, dataset, threat, testing, device=a.device, budget=budget)
        told = expected(each, n, len(dataset.test)) if budget or each.high * n > TOLD_FROM else None
        folder.start(a.out, overwrite=a.overwrite)
        folder.atomic_write(a.out / ASKED, json.dumps(asked | {"images": n}).encode())
    if told:
        print(told, file=sys.stderr, flush=True)
    title, begin = f"{dataset.name}, {threat}", perf_counter()
    with folder.locked(a.out), live() as progress:
        testing = replace(testing, n=n)
        rows = compare(
            chosen, loaded, dataset, threat, testing, a.out, title=title, device=a.device, thorough=a.health, progress=progress
        )
    if told:
        print(f"It took {text.duration(perf_counter() - begin)}.", file=sys.stderr)
    return _show(rows, title, a.out)


def _begun(out: Path, asked: dict[str, object]) -> int:
    """The number of images that the evaluation in `out` began with. Raises BadInput if it was asked for something else."""
    said = (out / ASKED).read_text(errors="replace")
    try:
        begun = json.loads(said)
        n = int(begun.pop("images", asked["n"]))
    except (ValueError, TypeError, AttributeError, OverflowError):
        begun, n = None, 0
    if begun != asked:
        raise BadInput(f"--resume goes on with what {out} began, which was {said}: give the same again, or another --out")
    return n


def _compare_methods(a: argparse.Namespace) -> int:
    from kdiga.compare_methods import compare_methods
    from kdiga.methods import methods
    from kdiga.progress import live
    from kdiga.recipe import read

    only = tuple(name.strip() for name in a.only.split(",")) if a.only else ()
    try:
        seeds = tuple(int(seed) for seed in a.seeds.split(",")) if a.seeds else ()
    except ValueError:
        raise BadInput(f"--seeds {a.seeds} must be whole numbers: --seeds 0,1,2") from None
    chosen = methods(read(a.recipe), only=only, seeds=seeds, sets=a.set)
    with live() as progress:
        compare_methods(chosen, a.out, root=a.root, resume=a.resume, overwrite=a.overwrite, jobs=a.jobs, progress=progress)
    return _show_methods(a.out)


def _show_methods(out: Path) -> int:
    from rich.console import Console

    from kdiga.ranking import read_report
    from kdiga.report.methods import terminal, verdict

    rows, teacher, about = read_report(out)
    console = Console()
    console.print(terminal(rows, teacher, about))
    console.print(verdict(rows, about), soft_wrap=True, highlight=False, markup=False)
    console.print(f"Page: {out / 'report.html'}   rows: {out / 'methods.json'}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _measure(a: argparse.Namespace) -> int:
    from kdiga import data, folder
    from kdiga.compare import entries
    from kdiga.measure import DEFAULT, asked, measure, plan
    from kdiga.progress import live
    from kdiga.recipe import Testing, assignment, threat_for
    from kdiga.train import pick_device

    threat = threat_for(a.data, a.norm, a.eps)
    testing = Testing(attacks=_names(a.attacks), n=a.n, attack_batch=a.batch_size)
    pick_device(a.device)
    chosen = entries(a.models)
    what = asked(_names(a.measures) if a.measures else DEFAULT, dict(assignment(text) for text in a.set), a.teacher, chosen)
    needed = [*a.models, a.data, *([what.teacher] if what.teacher else [])]
    folder.check_free(a.out, resume=a.resume, overwrite=a.overwrite, mark=ASKED, needed=needed)
    began: dict[str, object] = {"verb": "measure", "data": a.data, "threat": str(threat), "n": a.n, "batch": a.batch_size}
    if a.resume:
        _begun(a.out, began)
    dataset = data.load(a.data, a.root)
    planned = plan(chosen, what, dataset, threat, testing, device=a.device)
    if not a.resume:
        folder.start(a.out, overwrite=a.overwrite)
        folder.atomic_write(a.out / ASKED, json.dumps(began).encode())
    for line in planned.refused:
        print(f"kdiga: {line}", file=sys.stderr)
    title = f"{dataset.name}, {threat}"
    with folder.locked(a.out), live() as progress:
        measure(chosen, planned, dataset, a.out, title=title, progress=progress)
    return _show_measures(a.out)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _show_measures(out: Path) -> int:
    from rich.console import Console

    from kdiga.measure import read_report
    from kdiga.report.measures import terminal, verdict

    found, agreement, rows, about = read_report(out)
    console = Console()
    for table in terminal(found, agreement, rows, about):
        console.print(table)
    console.print(verdict(agreement, about), soft_wrap=True, highlight=False, markup=False)
    console.print(f"Page: {out / 'report.html'}   numbers: {out / 'measures.json'}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _report(a: argparse.Namespace) -> int:
    from kdiga import measure, ranking
    from kdiga.compare import write_report
    from kdiga.report.rows import read_results

    if (a.folder / "methods.json").exists():
        ranking.write_report(a.folder)
        return _show_methods(a.folder)
    if (a.folder / "measures.json").exists():
        measure.write_report(a.folder)
        return _show_measures(a.folder)
    if not (a.folder / "results.json").exists():
        raise BadInput(
            f"{a.folder} holds no results.json: name the folder of a run that was evaluated, of a comparison or of the demo"
        )
    write_report(a.folder)
    return _show(read_results(a.folder / "results.json"), a.folder.name, a.folder)


def _show(rows: "Sequence[Row]", title: str, out: Path) -> int:
    from rich.console import Console

    from kdiga.compare import remarks
    from kdiga.report import health
    from kdiga.report.table import terminal, verdict

    console = Console()
    console.print(terminal(rows, title))
    for remark in (*remarks(out), verdict(rows), *health.lines(health.load(out, [row.name for row in rows]))):
        console.print(remark, soft_wrap=True, highlight=False, markup=False)
    console.print(f"Page: {out / 'report.html'}   rows: {out / 'results.json'}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _list(a: argparse.Namespace) -> int:
    from kdiga.contents import about, listing

    if a.name and a.kind not in ("objectives", "measures"):
        raise BadInput(
            f"only objectives and measures have more to show than their line: kdiga list {a.kind} shows those of all {a.kind}"
        )
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None  # whole lines for grep
    print(about(a.name, a.kind) if a.name else listing(a.kind, width))
    return 0


def _cite(a: argparse.Namespace) -> int:
    from kdiga.cite import cite

    print(cite(a.names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
