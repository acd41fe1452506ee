"""Every results table of the five papers: the printed numbers and their settings.

The numbers are in `papers.csv`, a row for each: table, data set, network, method,
measure, value, printed standard deviation, whether it is printed bold, and the gain
that the paper prints beside it. AdaNorm's gains are per cent of the base's value, GAF's
are points. AdaL prints curves only: its rows have no value.
"""

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CSV = Path(__file__).with_name("papers.csv")


@dataclass(frozen=True)
class Cell:
    """A printed number.

    Attributes:
        table: as in `TABLES`.
        dataset: name of the data set.
        network: name of the network.
        method: the optimizer with what is varied.
        measure: what is printed.
        value: the number, accuracies in per cent; `None` where only curves are printed.
        std: the printed standard deviation.
        bold: whether it is printed bold.
        gain: the printed gain.
    """

    table: str
    dataset: str
    network: str
    method: str
    measure: str
    value: float | None
    std: float | None
    bold: bool
    gain: float | None


@dataclass(frozen=True)
class Table:
    """What is the same for all numbers of a table.

    Attributes:
        title: what it compares.
        source: the place of its settings in the paper.
        pairs: the methods with the base that the paper means them to beat.
        runs: that the paper's means are over; `None` if it does not say.
        epochs: number of epochs.
        batch_size: images in a batch, unless the method says otherwise.
        schedule: of the learning rate, as in `training.recipes`.
        l2: weight decay.
        image_size: side of the images, if not the data set's.
        assumed: what the paper does not state.
        measure: what is compared.
    """

    title: str
    source: str
    pairs: Sequence[tuple[str, str]]
    runs: int | None
    epochs: int
    batch_size: int
    schedule: str
    l2: float = 0.0
    image_size: int | None = None
    assumed: str = ""
    measure: str = "accuracy"


@dataclass(frozen=True)
class Method:
    """An optimizer with a paper's settings.

    Attributes:
        optimizer: name of its class.
        rate: learning rate.
        settings: further arguments.
        batch_size: images in a batch, if not the table's.
    """

    optimizer: str
    rate: float
    settings: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None


ADANORM_PAIRS = [
    ("AdamNorm", "Adam"),
    ("DiffGradNorm", "diffGrad"),
    ("RAdamNorm", "RAdam"),
    ("AdaBeliefNorm", "AdaBelief"),
]
ANGULAR_PAIRS = [("AngularGrad cos", "Adam"), ("AngularGrad tan", "Adam")]
WGD_PAIRS = [
    ("WGDSGD", "SGDM"),
    ("WGDAdam", "Adam"),
    ("WGDNadam", "Nadam"),
    ("WGDRAdam", "RAdam"),
]
GAMMAS = ("0.9", "0.95", "0.99", "0.999")
RATES = ("0.01", "0.001", "0.0001")
BATCHES = ("32", "64", "128")
FORMS = ("(0.1, 20)", "(0.2, 10)")

_angulargrad = functools.partial(
    Table,
    source="section 6.2.2, footnotes 3 and 4",
    pairs=ANGULAR_PAIRS,
    runs=5,
    epochs=100,
    batch_size=128,
    schedule="step:80",
    assumed="100 epochs, batch size 128",
)
_adanorm = functools.partial(
    Table, source="section 4", runs=3, epochs=100, batch_size=64, schedule="step:80"
)
_gaf = functools.partial(
    Table, runs=None, epochs=200, batch_size=256, schedule="cosine", l2=5e-4
)
_wgd = functools.partial(
    Table,
    pairs=WGD_PAIRS,
    runs=None,
    epochs=50,
    batch_size=32,
    schedule="constant",
    l2=1e-3,
    image_size=224,
    assumed="a constant learning rate, the same 0.01 for all as its Table 1 prints",
)

TABLES = {
    "angulargrad-1": _angulargrad("AngularGrad, Table 1: eight optimizers on CIFAR-10"),
    "angulargrad-2": _angulargrad("AngularGrad, Table 2: the same on CIFAR-100"),
    "angulargrad-3": _angulargrad(
        "AngularGrad, Table 3: mini-ImageNet, plain and weight-standardized networks",
        source="section 6.2.3",
        image_size=224,
    ),
    "angulargrad-4": _angulargrad(
        "AngularGrad, Table 4: fine-grained images, pretrained ResNet-50",
        source="section 6.2.4, footnote 6",
        epochs=60,
        batch_size=16,
        schedule="step:30,50",
        image_size=448,
        assumed="60 epochs, batch size 16, five runs as in Tables 1 to 3",
    ),
    "adanorm-1": _adanorm(
        "AdaNorm, Table 1: four optimizers without and with AdaNorm",
        pairs=ADANORM_PAIRS,
    ),
    "adanorm-2": _adanorm(
        "AdaNorm, Table 2: gamma of AdamNorm",
        pairs=[
            (f"AdamNorm gamma={g}", "AdamNorm gamma=0.95")
            for g in GAMMAS
            if g != GAMMAS[1]
        ],
    ),
    "adanorm-3": _adanorm(
        "AdaNorm, Table 3: which moments are corrected",
        pairs=[
            ("AdamNorm, first moment", "AdamNorm, second moment"),
            ("AdamNorm, first moment", "AdamNorm, both moments"),
        ],
    ),
    "adanorm-4": _adanorm(
        "AdaNorm, Table 4: learning rates",
        source="section 6.3",
        pairs=[(f"AdamNorm rate={rate}", f"Adam rate={rate}") for rate in RATES],
    ),
    "adanorm-5": _adanorm(
        "AdaNorm, Table 5: batch sizes",
        source="section 6.4",
        pairs=[(f"AdamNorm batch={size}", f"Adam batch={size}") for size in BATCHES],
    ),
    "gaf-1": _gaf(
        "GAF, Table I: SGD with clipping and with GAF on ImageNet",
        source="section IV-C",
        pairs=[
            *((f"GAFSGD arctan {form}", "SGDM") for form in FORMS),
            ("SGDM, value clipping 0.1", "SGDM"),
            ("SGDM, norm clipping 0.1", "SGDM"),
        ],
        epochs=150,
        batch_size=64,
        schedule="cosine:5",
        l2=4e-5,
        image_size=224,
    ),
    "gaf-2": _gaf(
        "GAF, Table II: SGD with three activations on CIFAR-100",
        source="section IV-C",
        pairs=[
            (f"GAFSGD {name} {form}", "SGDM")
            for name in ("tanh", "log", "arctan")
            for form in FORMS
        ],
    ),
    "gaf-3": _gaf(
        "GAF, Table III: Adam on CIFAR-10 and CIFAR-100",
        source="section IV-C",
        pairs=[(f"GAFAdam arctan {form}", "Adam") for form in FORMS],
        assumed="Adam's learning rate, 0.001: the 0.1 that is printed is SGD's",
    ),
    "gaf-4": _gaf(
        "GAF, Table IV: SSD300 on PASCAL VOC",
        source="section IV-C",
        pairs=[(f"GAFSGD arctan {form}", "SGDM") for form in FORMS],
        epochs=232,
        batch_size=32,
        schedule="cosine",
        assumed="232 epochs: 120,000 batches of 32 from 16,551 images",
        measure="mAP",
    ),
    "adal-1": Table(
        "AdaL, Figures 5 to 8 (its Table 1 names them): curves, no numbers",
        source="section 3 and Table 1",
        pairs=[("AdaL", other) for other in ("Adam", "NosAdam", "AMSGrad")],
        runs=None,
        epochs=150,
        batch_size=128,
        schedule="step:50,100",
        l2=5e-4,
        assumed="the learning rate, which the paper searches in 0.01, 0.001, 0.0001: "
        "0.001",
    ),
    **{
        f"wgd-{number}": _wgd(f"WGD, Table {number}: {network} on {data}", source=where)
        for data, where, first in (
            ("Animals-10", "Table 1, section 4.4.1", 3),
            ("CIFAR-100", "Table 1, section 4.4.2", 6),
        )
        for number, network in enumerate(("DenseNet121", "ResNet18", "ResNet50"), first)
    },
}


@functools.cache
def cells(table: str | None = None) -> tuple[Cell, ...]:
    """The numbers of a table, or of all, in the order of the papers."""
    with open(CSV, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        Cell(
            row["table"],
            row["dataset"],
            row["network"],
            row["method"],
            row["measure"],
            *(float(row[name]) if row[name] else None for name in ("value", "std")),
            row["mark"] == "bold",
            float(row["gain"]) if row["gain"] else None,
        )
        for row in rows
        if table in (None, row["table"])
    )


def names(table: str, what: str) -> list[str]:
    """The data sets, networks, methods or measures of a table, in its order."""
    return list(dict.fromkeys(getattr(cell, what) for cell in cells(table)))


def values(table: str, measure: str | None = None) -> dict[tuple[str, str, str], Cell]:
    """The numbers of one measure by data set, network and method."""
    measure = measure or TABLES[table].measure
    return {
        (cell.dataset, cell.network, cell.method): cell
        for cell in cells(table)
        if cell.measure == measure
    }


def method(table: str, label: str) -> Method:
    """The optimizer that a paper's label stands for, with the paper's settings.

    Adam is `AdamCore`, which adds epsilon as PyTorch does, with which the papers ran.
    """
    paper = table.partition("-")[0]
    name, equals, varied = label.rpartition("=")
    kind, _, symbol = name.rpartition(" ")
    if equals and symbol == "gamma":
        return Method("AdamNorm", 1e-3, {"gamma": float(varied)})
    if equals and symbol == "rate":
        return Method(_CLASSES[kind], float(varied))
    if equals:
        return Method(_CLASSES[kind], 1e-3, batch_size=int(varied))
    if label.endswith((" moment", " moments")):
        moments = label.removeprefix("AdamNorm, ").partition(" ")[0]
        return Method("AdamNorm", 1e-3, {"corrected_moments": moments})
    if paper == "gaf":
        return _of_gaf(label, 1e-3 if table == "gaf-4" else 0.1)
    if paper == "wgd":
        momentum = label in ("SGDM", "WGDSGD")
        more = {"momentum": 0.9} if momentum else {"epsilon": 1e-10}
        return Method(_CLASSES.get(label, label), 0.01, more)
    if label == "SGDM":
        rate = 0.1 if table == "angulargrad-4" else 0.01
        return Method("SGDCore", rate, {"momentum": 0.9})
    if label.startswith("AngularGrad"):
        return Method("AngularGrad", 1e-3, {"angle": label.rpartition(" ")[2]})
    return Method(_CLASSES.get(label, label), 1e-3, _SETTINGS.get(label, {}))


def _of_gaf(label: str, rate: float) -> Method:
    momentum = {"momentum": 0.9}
    if "clipping" in label:
        clip = "clipvalue" if "value" in label else "global_clipnorm"
        return Method("SGDCore", rate, {**momentum, clip: 0.1})
    if label in ("SGDM", "Adam"):
        plain = label == "Adam"
        return Method(
            _CLASSES[label], 1e-3 if plain else rate, {} if plain else momentum
        )
    name, activation, pair = label.split(" ", 2)
    alpha, beta = map(float, pair.strip("()").split(", "))
    form = {"activation": activation, "alpha": alpha, "beta": beta}
    if name == "GAFAdam":
        return Method(name, 1e-3, form)
    return Method(name, rate, {**momentum, **form})


_CLASSES = {
    "SGDM": "SGDCore",
    "Adam": "AdamCore",
    "diffGrad": "DiffGrad",
    "AMSGrad": "Adam",
    "AdamNorm": "AdamNorm",
}
_SETTINGS = {
    "RMSprop": {"rho": 0.99, "epsilon": 1e-8},
    "AdamW": {"weight_decay": 0.0, "epsilon": 1e-8},
    "AMSGrad": {"amsgrad": True, "epsilon": 1e-8},
}
