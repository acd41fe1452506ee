"""docs/support.md tells of each optimizer, feature and backend what tests showed."""

import json
import re
import sys

import pytest
import support_matrix as support

OPTIMIZERS = ["Ada", "Bob", "Cy"]
TESTS = {
    f: tests for section in support.FEATURES.values() for f, tests in section.items()
}
KILLED = "killed (-9) and restored, bit by bit"


def everything():
    """{(feature, backend): optimizers} as it may be: all, but what has a reason."""
    shown = {(f, b): list(OPTIMIZERS) for f in TESTS for b in support.BACKENDS}
    shown |= {key: [] for key in support.LIMITS}
    return shown | {key: ["Ada", "Cy"] for key in support.SAMPLED}


@pytest.fixture
def folder(tmp_path):
    """Writes the outcomes of runs that show what is given, and nothing else."""

    def write(shown, outcome="passed"):
        for backend in support.BACKENDS:
            entries = [
                {"test": t, "optimizer": o, "outcome": outcome, "keras_tests": None}
                for (feature, where), names in shown.items()
                for t in TESTS[feature]
                for o in names
                if where == backend
            ]
            own = {"optimizer_test::test_get": ["passed", "passed", "skipped"]}
            entries.append(
                {
                    "test": "test_keras_own",
                    "optimizer": None,
                    "outcome": "passed",
                    "keras_tests": {} if backend == "torch" else own,
                }
            )
            run = {"backend": backend, "optimizers": OPTIMIZERS, "tests": entries}
            (tmp_path / f"{backend}-0.json").write_text(json.dumps(run))
        return tmp_path

    return write


def page(folder):
    return support.render(*support.read(folder), OPTIMIZERS)


def rows(text, heading):
    """The cells of all tables under a heading (of its level or below it)."""
    level = heading.split()[0]
    under = text.partition(f"\n{heading}\n")[2]
    under = re.split(rf"(?m)^{level} ", under)[0]
    lines = [line for line in under.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines]


def told(text):
    """What the page tells, by feature: {(feature, backend): optimizers}."""
    found = {}
    for feature, *cells in rows(text, "## By feature"):
        for backend, cell in zip(support.BACKENDS, cells):
            found[feature, backend] = cell
    exceptions = re.findall(
        r"^- \*\*(.+)\*\*: (?:not|only with (.+?)) on (.+?)\. [A-Z`].*\.$", text, re.M
    )
    for feature, only, backends in exceptions:
        names = only.split(", ") if only else []
        for backend, name in support.BACKENDS.items():
            if name in backends.split(", "):
                assert found[feature, backend] == str(len(names) or "-")
                found[feature, backend] = names
    found = {k: OPTIMIZERS if v == "all" else v for k, v in found.items()}
    return {k: v for k, v in found.items() if k[0] != "feature"}


def test_page_tells_each_outcome(folder):
    text = page(folder(everything()))
    assert told(text) == everything()
    numbers = {}
    for names, *cells in rows(text, "## By optimizer")[1:]:
        for name in names.split(", "):
            numbers[name] = cells
    for name in OPTIMIZERS:
        for backend, number in zip(support.BACKENDS, numbers[name]):
            has = [k for k, v in everything().items() if k[1] == backend and name in v]
            assert int(number) == len(has)
    assert numbers["Ada"][-1] == numbers["Cy"][-1] == "-"
    assert numbers["Bob"][-1].startswith(f"{KILLED}: JAX, PyTorch; ")
    own = "- 2 passed, 1 skipped on TensorFlow, JAX; not run on PyTorch: `test_get`\n"
    assert text.endswith(f"### `optimizer_test`\n\n{own}")


def test_exception_that_is_none_any_more_goes(folder):
    shown = everything() | {(KILLED, "jax"): OPTIMIZERS}
    assert told(page(folder(shown))) == shown


def test_no_table_is_wide(folder):
    tables = re.findall(r"(?m)^\|---.*$", page(folder(everything())))
    assert tables and max(line.count("---") for line in tables) <= 5


@pytest.mark.parametrize("names", [[], ["Ada", "Bob"]], ids=["none", "not all"])
@pytest.mark.parametrize("feature", ["a second `fit`", "`tf.train.Checkpoint`"])
def test_gap_without_a_reason_is_an_error(folder, feature, names):
    """A limit is a reason for none of the optimizers, not for some."""
    missing = len(OPTIMIZERS) - len(names)
    shown = everything() | {(feature, "tensorflow"): names}
    with pytest.raises(SystemExit, match=f"{feature} on tensorflow: {missing} opt"):
        page(folder(shown))
    if names and (feature, "jax") in support.LIMITS:
        with pytest.raises(SystemExit, match=f"{feature} on jax: {missing} opt"):
            page(folder(everything() | {(feature, "jax"): names}))


def test_sample_without_anybody_is_an_error(folder):
    shown = everything() | {(KILLED, "jax"): []}
    with pytest.raises(SystemExit, match="bit by bit on jax: 3 optimizers"):
        page(folder(shown))


def test_failed_and_skipped_tests_show_nothing(folder):
    with pytest.raises(SystemExit, match=r"\w+ failed on tensorflow for Ada"):
        page(folder(everything(), "failed"))
    with pytest.raises(SystemExit, match=r"agree on jax: 3 optimizers"):
        page(folder(everything(), "skipped"))


def test_check_compares_with_the_page(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(support, "DOCUMENT", tmp_path / "support.md")
    where = str(folder(everything()))
    check = ["support.py", where, "--check"]
    monkeypatch.setattr(sys, "argv", check)
    with pytest.raises(SystemExit, match="not what the tests show"):
        support.main()
    monkeypatch.setattr(sys, "argv", check[:-1])
    support.main()
    monkeypatch.setattr(sys, "argv", check)
    support.main()
    folder(everything() | {(KILLED, "jax"): OPTIMIZERS})
    with pytest.raises(SystemExit, match="not what the tests show"):
        support.main()
