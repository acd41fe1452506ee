"""How many gains of the five papers exceed the noise that the papers print.

Everything follows from the printed numbers (`papers_tables`). The page of the site is
made of it by `papers_page`.
"""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from papers_tables import RATES, TABLES, Cell, names, values
from scipy import stats

from keras_gradopt.comparison.statistics import holm

LEVEL = 0.05


@dataclass(frozen=True)
class Finding:
    """A line of the audit.

    Attributes:
        table: as in `TABLES`.
        claim: what is compared.
        count: how many of the claimed gains exceed the noise.
        total: how many comparisons there are.
        detail: the rest, in words.
    """

    table: str
    claim: str
    count: int
    total: int
    detail: str


def welch(ours: Cell, theirs: Cell, runs: int) -> float:
    """The p of no difference between two printed means of so many runs each."""
    found = stats.ttest_ind_from_stats(
        ours.value, ours.std, runs, theirs.value, theirs.std, runs, equal_var=False
    )
    return float(found.pvalue)


def noise(table: str) -> float:
    """The standard deviation over runs that a table prints: root mean square."""
    return math.sqrt(statistics.fmean(c.std**2 for c in values(table).values()))


def limit(std: float, runs: int) -> float:
    """What a difference of two means must exceed: Student's t; of single runs, z."""
    quantile = 1 - LEVEL / 2
    if runs == 1:
        return float(stats.norm.ppf(quantile)) * std * math.sqrt(2)
    return float(stats.t.ppf(quantile, 2 * runs - 2)) * std * math.sqrt(2 / runs)


def gains(
    table: str, pairs: Iterable[tuple[str, str]], dataset: str | None = None
) -> list[float]:
    """The differences of methods and bases, in the measure's unit."""
    found = values(table)
    return [
        round(found[d, n, ours].value - found[d, n, base].value, 4)
        for ours, base in pairs
        for d, n in dict.fromkeys(key[:2] for key in found)
        if dataset in (None, d)
    ]


def angulargrad() -> list[Finding]:
    """Both AngularGrads against Adam, and against the best of the others."""
    findings = []
    for number in (1, 2, 3, 4):
        table = f"angulargrad-{number}"
        found = values(table)
        places = list(dict.fromkeys(key[:2] for key in found))

        def best(place: tuple[str, str], found=found) -> Cell:
            others = [c for k, c in found.items() if k[:2] == place]
            others = [c for c in others if not c.method.startswith("Angular")]
            return max(others, key=lambda cell: cell.value)

        def adam(place: tuple[str, str], found=found) -> Cell:
            return found[*place, "Adam"]

        for variant in ("AngularGrad cos", "AngularGrad tan"):
            for rival, name in ((adam, "Adam"), (best, "the best other")):
                findings.append(
                    _tested(table, places, f"{variant}, {name}", variant, rival)
                )
    return findings


def _tested(
    table: str,
    places: list[tuple[str, str]],
    claim: str,
    variant: str,
    rival: Callable[[tuple[str, str]], Cell],
) -> Finding:
    ours = [values(table)[*place, variant] for place in places]
    theirs = [rival(place) for place in places]
    runs = TABLES[table].runs or 1
    p = [welch(a, b, runs) for a, b in zip(ours, theirs)]
    up = [a.value > b.value for a, b in zip(ours, theirs)]
    raw = sum(x < LEVEL and u for x, u in zip(p, up))
    corrected = sum(x < LEVEL and u for x, u in zip(holm(p), up))
    worse = sum(x < LEVEL and not u for x, u in zip(p, up))
    return Finding(
        table,
        claim,
        raw,
        len(places),
        f"{sum(up)} higher; {corrected} after Holm's correction; {worse} lower by as "
        "much",
    )


STAND_INS = {  # the noise that AngularGrad prints, where a paper prints none
    "cifar10": "angulargrad-1",
    "cifar100": "angulargrad-2",
    "tiny_imagenet": "angulargrad-3",
}


def adanorm() -> list[Finding]:
    """Each optimizer with AdaNorm against the one without, and the ablations."""
    findings = []
    for table, claim in (
        ("adanorm-1", "with AdaNorm, without"),
        ("adanorm-2", "another gamma, 0.95"),
        ("adanorm-3", "first moment, the other two"),
        ("adanorm-4", "AdamNorm, Adam at the same rate"),
        ("adanorm-5", "AdamNorm, Adam at the same batch size"),
    ):
        for dataset in names(table, "dataset"):
            findings.append(
                _against_limit(table, claim, dataset, TABLES[table].runs or 1)
            )
    return findings


def _against_limit(table: str, claim: str, dataset: str, runs: int) -> Finding:
    found = gains(table, TABLES[table].pairs, dataset)
    std = noise(STAND_INS[dataset])
    least = limit(std, runs)
    return Finding(
        table,
        f"{claim}: {dataset}",
        sum(gain > least for gain in found),
        len(found),
        f"{sum(gain > 0 for gain in found)} higher; above {least:.2f} points "
        f"(standard deviation {std:.2f})",
    )


def best_rates() -> list[tuple[str, str, float, float]]:
    """AdaNorm's Table 4: the gain at 0.001, and that of best rate to best rate."""
    found = values("adanorm-4")
    rows = []
    for place in dict.fromkeys(key[:2] for key in found):

        def best(name: str, place=place) -> float:
            return max(found[*place, f"{name} rate={rate}"].value for rate in RATES)

        same = (
            found[*place, "AdamNorm rate=0.001"].value
            - found[*place, "Adam rate=0.001"].value
        )
        rows.append((*place, round(same, 2), round(best("AdamNorm") - best("Adam"), 2)))
    return rows


def gaf() -> list[Finding]:
    """GAF against the base, as single runs."""
    findings = [_single("gaf-1", "GAF, SGDM", TABLES["gaf-1"].pairs[:2])]
    findings.append(_single("gaf-1", "clipping, SGDM", TABLES["gaf-1"].pairs[2:]))
    findings.append(_against_limit("gaf-2", "GAF, SGDM", "cifar100", 1))
    for dataset in ("cifar10", "cifar100"):
        findings.append(_against_limit("gaf-3", "GAF, Adam", dataset, 1))
    findings.append(_single("gaf-4", "GAF, SGDM (mAP)", TABLES["gaf-4"].pairs))
    return findings


def _single(table: str, claim: str, pairs: Iterable[tuple[str, str]]) -> Finding:
    found = gains(table, pairs)
    up = sum(gain > 0 for gain in found)
    low, high = min(found), max(found)
    detail = f"{up} higher, from {low:+.2f} to {high:+.2f}; no noise is printed"
    return Finding(table, claim, -1, len(found), detail)


def wgd() -> list[Finding]:
    """WGD against the base: single runs; on CIFAR-100 with AngularGrad's noise."""
    findings = []
    for number in range(3, 9):
        table = f"wgd-{number}"
        if number < 6:
            findings.append(_single(table, "WGD, its base", TABLES[table].pairs))
        else:
            findings.append(_against_limit(table, "WGD, its base", "cifar100", 1))
    return findings


def findings() -> list[Finding]:
    """All lines, in the order of the papers."""
    return [*angulargrad(), *adanorm(), *gaf(), *wgd()]


def adamw() -> dict[str, float]:
    """Mean absolute difference of AdamW and Adam, by table of AngularGrad."""
    found = {}
    for number in (1, 2, 3):
        table = f"angulargrad-{number}"
        differences = gains(table, [("AdamW", "Adam")])
        found[table] = round(statistics.fmean(map(abs, differences)), 3)
    return found


def misprints() -> list[str]:
    """Printed gains and bold marks that the printed numbers do not give."""
    found = []
    for table in TABLES:
        for measure in names(table, "measure"):
            numbers = values(table, measure)
            pairs = dict(TABLES[table].pairs)
            for (dataset, network, name), cell in numbers.items():
                if name not in pairs or cell.value is None:
                    continue
                base = numbers[dataset, network, pairs[name]]
                where = f"{table}, {dataset}, {network}, {name}, {measure}"
                if cell.gain is not None:
                    real = cell.value - base.value
                    if table.startswith("adanorm"):
                        real *= 100 / base.value
                    if abs(real - cell.gain) > 0.0151:
                        found.append(f"{where}: prints {cell.gain:+}, is {real:+.2f}")
                better = cell.value > base.value
                if measure == "loss":
                    better = not better
                if table.startswith("wgd") and cell.bold != better:
                    other = "better" if better else "worse"
                    marked = "bold" if cell.bold else "not bold"
                    found.append(f"{where}: {marked}, but {other} than {base.method}")
    return found
