"""The documentation: its examples run, and its tables state the arguments as they are.

That every public name is documented is checked when it is built (docs/hooks.py).
"""

import ast
import csv
import doctest
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_package import PUBLIC

import keras_gradopt

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = [*sorted(DOCS.glob("guide/*.md")), DOCS / "coming-from.md"]
METHODS = sorted(set(DOCS.glob("methods/*.md")) - {DOCS / "methods/index.md"})
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ARGUMENT = re.compile(r"^\| `(\w+)` \| `(.+?)` \|", re.MULTILINE)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *GUIDES, *METHODS], ids=lambda page: page.stem
)
def test_examples_run(page, tmp_path, monkeypatch):
    """All blocks of a page, from top to bottom, in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for number, (language, code) in enumerate(BLOCK.findall(page.read_text())):
        name = f"{page.name}, block {number}"
        if language == "python":
            exec(compile(code, name, "exec"), namespace)
            continue
        test = doctest.DocTestParser().get_doctest(code, namespace, name, name, 0)
        runner = doctest.DocTestRunner()
        runner.run(test, clear_globs=False)
        assert runner.failures == 0, f"{name}: see what is printed"
        namespace |= test.globs


def test_tests_that_pages_name_exist():
    """As evidence, in brackets; Keras' own are named otherwise."""
    defined = "".join(path.read_text() for path in ROOT.glob("tests/*/test_*.py"))
    for page in DOCS.rglob("*.md"):
        for name in re.findall(r"\(`(test_\w+)`", page.read_text()):
            known = f"def {name}(" in defined or list(ROOT.glob(f"tests/*/{name}.py"))
            assert known, f"{page.name} names {name}"


def test_what_broke_is_held_by_tests_that_exist():
    paths = list(ROOT.glob("tests/*/test_*.py"))
    known = {path.stem for path in paths}
    known |= set(re.findall(r"def (\w+)\(", "".join(p.read_text() for p in paths)))
    named = re.findall(r"(…?)((?:test_)?\w*_\w+)(…?)", _column("hardening.md", 2))
    assert len(named) > 80
    for cut_before, name, cut_after in named:
        found = [
            other
            for other in known
            if (other.endswith(name) if cut_before else other.startswith(name))
            or (cut_before and name in other)
        ]
        assert name in known or found, f"{cut_before}{name}{cut_after}"


def _column(page, number):
    lines = (DOCS / page).read_text().splitlines()
    rows = [line.split("|") for line in lines if line.startswith("| ")]
    return "\n".join(row[number] for row in rows)


@pytest.mark.parametrize("page", METHODS, ids=lambda page: page.stem)
def test_tables_of_arguments_are_right(page):
    text = page.read_text()
    arguments = ARGUMENT.findall(text)
    assert arguments
    on_page = [PUBLIC[name] for name in PUBLIC if re.search(rf"`{name}`", text)]
    for name, default in arguments:
        parameters = [inspect.signature(cls).parameters.get(name) for cls in on_page]
        defaults = [parameter.default for parameter in parameters if parameter]
        assert ast.literal_eval(default) in defaults, name


def test_troubleshooting_quotes_the_errors(tmp_path, monkeypatch):
    """What the page is about says what it quotes, and its advice helps."""
    text = (DOCS / "guide/troubleshooting.md").read_text()
    not_located, no_backend, legacy = re.findall(
        r"^```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    )
    save, load, load_without_optimizer = (code for _, code in BLOCK.findall(text))
    monkeypatch.chdir(tmp_path)
    exec(save, {})
    program = f"""
import sys, keras
def load(forget):
    try:
        exec({load!r}.replace(forget, ""), globals())
    except TypeError as error:
        print("TypeError:", error)
load("import keras_gradopt")
assert "keras_gradopt" not in sys.modules
sys.modules["keras_gradopt"] = None  # as if it were not installed
load("import keras_gradopt")
exec({load_without_optimizer!r})
del sys.modules["keras_gradopt"]
load("nothing")
print(model.optimizer)
"""
    printed = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout.splitlines()  # fmt: skip
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    with pytest.raises(ImportError) as refused:
        keras_gradopt.requirements.check()
    without_backend = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['tensorflow'] = None\n"
         "import keras_gradopt"],
        capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"},
    ).stderr.splitlines()  # fmt: skip
    said = [(not_located, printed[0]), (not_located, printed[1])]
    said += [(no_backend, without_backend[-1])]
    said += [(legacy, f"ImportError: {refused.value}")]
    for quote, error in said:
        for part in quote.split("..."):
            assert " ".join(part.split()) in error
    assert printed[2].startswith("<AngularGrad:") and len(printed) == 3


@pytest.mark.parametrize(
    "name, row",
    [
        ("resnet20", "| CIFAR-10 | ResNet-20"),
        ("densenet22", "| CIFAR-10 | DenseNet-22"),
        ("tiny", "| Tiny ImageNet, 64"),
        ("imagenette", "| Imagenette, 224"),
    ],
)
def test_accuracies_of_real_images_are_those_of_their_rows(name, row):
    with open(ROOT / f"docs/studies/images/{name}.csv", newline="") as file:
        best = max(float(epoch["val_accuracy"]) for epoch in csv.DictReader(file))
    page = (ROOT / "docs/real-images.md").read_text()
    (line,) = (line for line in page.splitlines() if line.startswith(row))
    assert f"| {100 * best:.1f} %" in line
