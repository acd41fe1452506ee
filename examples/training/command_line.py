"""What `train.py` is asked to run: a recipe, or the defaults.

Every setting that a flag gives is in its place.
"""

import argparse
import dataclasses
import importlib.util
import inspect
from pathlib import Path

import keras

from training import flags, optimizer_flags
from training.datasets import DATASETS, PREPROCESSINGS
from training.models import MODELS
from training.recipes import RECIPES, Recipe

DEFAULT = Recipe(
    source="none: the quickest complete run",
    dataset="digits",
    model="resnet20",
    optimizer="AngularGrad",
    epochs=40,
    batch_size=64,
    learning_rate=1e-3,
    schedule="cosine",
    l2=1e-4,
)
RECIPE_FLAGS = [
    field.name for field in dataclasses.fields(Recipe) if field.name != "settings"
]

BALANCES = ["weights", "sampler", "none"]


def parser(description=None):
    make = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    make.add_argument("--list", action="store_true", help="print all names, and stop")
    make.add_argument("--recipe", choices=sorted(RECIPES), metavar="NAME")

    what = add_data_flags(make)
    what.add_argument(
        "--preprocessing", metavar="NAME", help="default: the recipe's or data set's"
    )
    what.add_argument("--model", metavar="NAME")
    what.add_argument("--weights", metavar="imagenet|none|PATH")

    how = add_optimization_flags(
        make, "constant, cosine, cosine:WARMUP_EPOCHS or step:EPOCH[,EPOCH...]"
    )
    how.add_argument("--epochs", type=flags.COUNT, metavar="N")
    how.add_argument(
        "--backbone-rate",
        type=flags.NOT_NEGATIVE,
        metavar="X",
        help="learning rate of all but the last layer, as a multiple",
    )
    how.add_argument(
        "--balance",
        nargs="?",
        const="weights",
        choices=BALANCES,
        help="against unequal numbers of images: weight the classes in the loss, or "
        "draw them equally often",
    )
    add_place_flags(make, "runs/latest")
    return make


def add_data_flags(make):
    """Adds the flags that say what to train; the group, for further ones."""
    what = make.add_argument_group("what to train (defaults: the recipe's)")
    what.add_argument("--dataset", metavar="NAME", help="or folder:PATH")
    what.add_argument("--data-dir", metavar="PATH", help="where TFDS keeps data sets")
    what.add_argument("--image-size", type=flags.COUNT, metavar="PIXELS")
    what.add_argument(
        "--limit", type=flags.COUNT, metavar="N", help="images of each split"
    )
    what.add_argument(
        "--splits",
        metavar="TRAIN,VALIDATION",
        help='of TFDS, such as "train[:90%%],train[90%%:]"',
    )
    what.add_argument("--l2", type=flags.NOT_NEGATIVE, metavar="X", help="weight decay")
    return what


def add_optimization_flags(make, schedule):
    """Adds the flags that say how to optimize; the group, for further ones.

    Args:
        make: the parser.
        schedule: what `--schedule` can be, in words.
    """
    how = make.add_argument_group("how to optimize (defaults: the recipe's)")
    how.add_argument("--optimizer", metavar="NAME")
    how.add_argument(
        "--set", action="append", default=[], metavar="ARGUMENT=VALUE", dest="set_"
    )
    how.add_argument(
        "--transforms", metavar="LIST", help='such as "whiten,activate(tanh,0.2,10)"'
    )
    how.add_argument("--steps-per-epoch", type=flags.COUNT, metavar="N")
    how.add_argument(
        "--batch-size", type=flags.COUNT, metavar="N", help="on all devices"
    )
    how.add_argument(
        "--learning-rate",
        type=flags.NOT_NEGATIVE,
        metavar="X",
        help="at its highest",
    )
    how.add_argument(
        "--schedule",
        metavar="NAME",
        help=schedule,
    )
    how.add_argument(
        "--accumulate", type=flags.COUNT, metavar="N", help="batches per update"
    )
    how.add_argument(
        "--ema", type=flags.SHARE, metavar="M", help="momentum of the average"
    )
    how.add_argument("--clipnorm", type=flags.POSITIVE, metavar="X")
    how.add_argument("--patience", type=flags.COUNT, metavar="EPOCHS")
    how.add_argument("--no-augment", action="store_true")
    return how


def add_place_flags(make, output):
    """Adds the flags that say where to run, and what is left where.

    Args:
        make: the parser.
        output: the folder of the run, if none is given.
    """
    where = make.add_argument_group("where to run")
    where.add_argument(
        "--strategy", choices=["none", "mirrored", "data-parallel"], default="none"
    )
    where.add_argument(
        "--devices",
        type=flags.COUNT,
        metavar="N",
        help="rehearse with N logical CPU devices",
    )
    where.add_argument("--coordinator", metavar="HOST:PORT")
    where.add_argument("--processes", type=flags.COUNT, default=1, metavar="N")
    where.add_argument("--process-id", type=int, default=0, metavar="I")
    where.add_argument(
        "--precision", choices=["float32", "mixed_float16", "mixed_bfloat16"]
    )
    where.add_argument("--jit", action="store_true", help="compile the step with XLA")
    where.add_argument(
        "--nondeterministic",
        action="store_true",
        help="faster on GPUs, where sums then have no fixed order",
    )
    where.add_argument("--seed", type=flags.SEED, default=0, metavar="N")
    where.add_argument("--output", type=flags.folder, default=Path(output))
    where.add_argument("--resume", action="store_true", help="go on after a kill")
    where.add_argument(
        "--overwrite", action="store_true", help="drop an unfinished run"
    )
    where.add_argument("--tensorboard", action="store_true")
    where.add_argument(
        "--monitor", type=flags.COUNT, metavar="N",
        help="measure gradients and updates every N steps: monitor.csv, monitor.png",
    )  # fmt: skip


def settle(args):
    """The settings of the run: flags over recipe over defaults.

    Raises:
        ValueError: in one sentence, for flags that are wrong or do not go together.
    """
    recipe = RECIPES[args.recipe] if args.recipe else DEFAULT
    given = {name: getattr(args, name, None) for name in RECIPE_FLAGS}
    given = {name: value for name, value in given.items() if value is not None}
    run = dataclasses.replace(recipe, **given)
    if run.dataset != recipe.dataset and run.dataset in DATASETS:
        run = dataclasses.replace(run, preprocessing=args.preprocessing)
    if run.weights == "none":
        run = dataclasses.replace(run, weights=None)
    run = with_optimizer(args, run, recipe)
    check_place(args, run)
    return run


def with_optimizer(args, run, recipe):
    """The settings of the run with the optimizer's arguments.

    Args:
        args: the flags.
        run: the settings, with the name of the optimizer.
        recipe: from which they came; its arguments go to another optimizer if that
            takes them.
    """
    optimizer = optimizer_flags.optimizer_class(run.optimizer)
    settings = dict(run.settings)
    if optimizer is not optimizer_flags.optimizer_class(recipe.optimizer):
        accepted = inspect.signature(optimizer).parameters
        settings = {n: v for n, v in settings.items() if n in accepted}
        if args.learning_rate is None and not args.recipe:
            default_rate = accepted["learning_rate"].default
            run = dataclasses.replace(run, learning_rate=default_rate)
    settings |= optimizer_flags.parse_settings(args.set_)
    if args.accumulate and args.accumulate > 1:
        settings["gradient_accumulation_steps"] = args.accumulate
    if args.ema is not None:
        settings |= {"use_ema": True, "ema_momentum": args.ema}
    if args.clipnorm:
        settings["clipnorm"] = args.clipnorm
    return dataclasses.replace(run, settings=settings)


def check_place(args, run):
    """Whether the flags that say where to run go together.

    Raises:
        ValueError: if not.
    """
    if args.strategy == "data-parallel" and keras.backend.backend() != "jax":
        raise ValueError("--strategy data-parallel needs KERAS_BACKEND=jax")
    if args.strategy == "mirrored" and keras.backend.backend() != "tensorflow":
        raise ValueError("--strategy mirrored needs KERAS_BACKEND=tensorflow")
    if args.strategy == "mirrored" and args.jit:
        raise ValueError(
            "Keras cannot compile the step under MirroredStrategy: leave out --jit"
        )
    if args.monitor and args.processes > 1:
        raise ValueError("--monitor measures in a single process")
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ValueError("--tensorboard needs the package tensorboard: install it")
    several = args.coordinator is not None or args.processes > 1
    if several and (args.strategy != "data-parallel" or not args.coordinator):
        raise ValueError(
            "several processes need --strategy data-parallel, --coordinator HOST:PORT, "
            "--processes N and --process-id I"
        )
    if not 0 <= args.process_id < args.processes:
        raise ValueError(f"--process-id must be from 0 to {args.processes - 1}")
    if run.batch_size % args.processes:
        raise ValueError(
            f"--batch-size {run.batch_size} is not a multiple of --processes "
            f"{args.processes}"
        )


def show_names(data_sets, networks, recipes, **others):
    """Prints what can be named on a command line.

    Args:
        data_sets: of the program.
        networks: of the program.
        recipes: of the program, with their sources.
        **others: further names, by their flag.
    """

    def show(title, names):
        print(f"{title}:\n  " + "\n  ".join(names))

    show(*data_sets)
    for flag, names in others.items():
        show(f"{flag}s (--{flag})", names)
    show(*networks)
    classes = set(optimizer_flags.optimizer_classes().values())
    show("optimizers", sorted(cls.__name__ for cls in classes))
    show("transforms (--transforms)", sorted(optimizer_flags.TRANSFORMS))
    show("recipes", (f"{name}: {recipe.source}" for name, recipe in recipes.items()))


def print_names():
    """Prints what `train.py` knows by name."""
    show_names(
        (
            "data sets (and any of TFDS' image classification, or folder:PATH)",
            DATASETS,
        ),
        ("networks (and any of keras.applications)", MODELS),
        RECIPES,
        preprocessing=PREPROCESSINGS,
    )
