"""Results in Markdown."""

import functools
import math
from typing import TYPE_CHECKING

from keras_gradopt.comparison.plans import Plan
from keras_gradopt.comparison.scheduling import arguments_text

if TYPE_CHECKING:
    from keras_gradopt.comparison.results import Results, Verdict

NAMES = {
    "sign-flip": "the sign-flip test",
    "t": "Student's t test for pairs",
    "corrected-t": "Nadeau and Bengio's corrected t test",
}


def digits(value: float) -> str:
    """With what digits matter."""
    return f"{value:.4g}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def page(results: "Results") -> str:
    """Everything: what was declared, what came out."""
    parts = [protocol(results)]
    for task in results.tasks:
        if not results.optimizers(task):
            continue
        parts += [f"## {task}", about(results, task), outcomes(results, task)]
        for family in results.plan.families:
            mine = [v for v in results.verdicts if (v.task, v.family) == (task, family)]
            if mine:
                parts += [f"### {family}", comparisons(mine, results.plan)]
    if missing := unfinished(results):
        parts += [missing]
    return "\n\n".join(parts) + "\n"


def protocol(results: "Results") -> str:
    """What was declared before the first run, in sentences."""
    plan, content = results.plan, results.declaration.content
    better = "higher" if plan.higher_is_better else "lower"
    low, high = plan.grid
    ratio = functools.cache(results.ratio)
    finer = "; then quarter-decades beside the best" if plan.refine else ""
    lines = [
        f"Declared {content['plans'][0]['declared'][:10]}, before the first run:",
        "",
        f"- Compared: `{plan.measure}` ({better} is better) at the end of training, "
        f"seeds {numbers(plan.seeds)}, paired.",
        f"- Search: `{plan.tuned_by}`, seeds {numbers(plan.tuning_seeds)}; "
        f"half-decades from {low:g} to {high:g}, more while the best is at an "
        f"edge{finer}.",
        f"- Test: {NAMES[plan.test]}, two-sided; equivalence by two one-sided tests "
        f"with the margin {plan.margin_text}; level {plan.level:g} after Holm's "
        "correction in each family. Intervals are Student's.",
    ]
    for family, pairs in plan.families.items():
        effects = {t: digits(plan.detectable(family, ratio(t))) for t in results.tasks}
        found = ", ".join(f"{effect} ({task})" for task, effect in effects.items())
        if len({*effects.values()}) == 1:
            found = next(iter(effects.values()))
        lines.append(
            f"- Family {family!r}: "
            + "; ".join(f"{ours} - {other}" for ours, other in pairs)
            + f". It finds {found} standard deviations of the differences four times "
            "of five."
        )
    return "\n".join(
        [*lines, *(f"- {change}." for change in results.declaration.changes)]
    )


def numbers(values: tuple[int, ...]) -> str:
    """Seeds, shortly."""
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))


def about(results: "Results", task: str) -> str:
    """What the task is."""
    facts = results.declaration.made["tasks"][task]
    size = facts["batch_size"]
    return (
        f"{facts['parameters']:,} parameters, loss {facts['loss']}, {facts['epochs']} "
        f"epochs of {facts['steps_per_epoch']} steps"
        + (f" of {size} examples" if size else "")
        + f", schedule {facts['schedule']}; {results.declaration.made['backend']} on "
        f"{results.declaration.made['device']}."
    )


def outcomes(results: "Results", task: str) -> str:
    """One line an optimizer: its rate, and every measure."""
    measures = ["test_loss"]
    measures += [
        f"test_{m}" for m in results.declaration.made["tasks"][task]["metrics"]
    ]
    header = ["optimizer", "learning rate", *(m.replace("_", " ") for m in measures)]
    rows = []
    for name in results.optimizers(task):
        first = results.runs(task, name)[0]
        rate = f"{float(first['learning_rate']):g}"
        if first["arguments"]:
            rate += f", {arguments_text(first['arguments'])}"
        cells = [name, rate]
        for measure in measures:
            values = results.values(task, name, measure)
            if math.isfinite(values.mean()):
                spread = values.std(ddof=1) if len(values) > 1 else math.nan
                cells.append(f"{digits(values.mean())} ± {digits(spread)}")
            else:
                cells.append("diverged")
        flags = [
            results.values(task, name, "diverged", s) for s in ("report", "tuning")
        ]
        count = sum(map(len, flags))
        cells.append(f"{int(sum(f.sum() for f in flags))} of {count}")
        times = sorted(results.values(task, name, "ms_per_step"))
        cells.append(f"{times[len(times) // 2]:.2f}")
        rows.append(cells)
    return table([*header, "diverged", "ms/step"], rows)


def comparisons(verdicts: list["Verdict"], plan: Plan) -> str:
    """One line a comparison."""
    header = ["comparison", "difference", "95 % interval", "%", "p", "p of equivalence"]
    header += ["detectable", "verdict"]
    rows = []
    for row in verdicts:
        if row.diverged:
            cells = [f"{row.diverged} of {row.count} seeds diverged", "", ""]
        else:
            interval = f"{row.low:+.3g} to {row.high:+.3g}"
            cells = [f"{row.mean:+.3g}", interval, f"{100 * row.share:+.1f}"]
        detectable = "" if row.diverged else f"{row.detectable:.3g}"
        cells += [f"{row.p:.3f}", f"{row.p_equivalent:.3f}", detectable]
        names = f"{row.optimizer} - {row.other}"
        rows.append([names, *cells, f"**{row.verdict}**"])
    return table(header, rows)


def unfinished(results: "Results") -> str:
    """Which comparisons have no verdict yet."""
    there = {(v.task, v.family, v.optimizer, v.other) for v in results.verdicts}
    lines = [
        f"- {task}: {ours} - {other}"
        for task in results.tasks
        for family, pairs in results.plan.families.items()
        for ours, other in pairs
        if (task, family, ours, other) not in there
    ]
    return "\n".join(["**Still to be run**:", "", *lines]) if lines else ""
