"""Notebooks are what their sources say. The documentation's build executes them."""

import ast
import json
import re

import pytest
from notebooks import make

pytestmark = pytest.mark.backend_independent


@pytest.mark.parametrize("path", make.SOURCES, ids=lambda path: path.stem)
def test_notebook_is_made_from_its_source(path):
    """When this fails: python examples/notebooks/make.py."""
    written = path.with_suffix(".ipynb").read_text()
    assert written == make.notebook(path.read_text(), make.repository())


def test_no_notebook_is_without_source():
    assert {p.stem for p in make.HERE.glob("*.ipynb")} == {p.stem for p in make.SOURCES}
    assert len(make.SOURCES) == 3


@pytest.mark.parametrize("path", make.SOURCES, ids=lambda path: path.stem)
def test_source_is_in_the_form_of_keras_io(path):
    fields = make.header(path.read_text())
    assert list(fields) == [
        "Title", "Date created", "Last modified", "Description", "Accelerator",
    ]  # fmt: skip
    for name in ("Date created", "Last modified"):
        assert re.fullmatch(r"\d{4}/\d{2}/\d{2}", fields[name])
    assert fields["Description"].endswith(".") and len(fields["Description"]) < 90


@pytest.mark.parametrize("path", make.SOURCES, ids=lambda path: path.stem)
def test_all_of_the_source_is_in_the_notebook(path):
    """Run one after the other, its cells are the source."""
    source = path.read_text()
    cells = make.cells(source)
    code = "\n".join("".join(c["source"]) for c in cells[2:] if "outputs" in c)
    meant = [n for n in ast.parse(source).body if not isinstance(n, ast.Expr)]
    found = [n for n in ast.parse(code).body if not isinstance(n, ast.Expr)]
    assert [ast.dump(n) for n in meant] == [ast.dump(n) for n in found]
    texts = re.findall(r'(?ms)^"""\n(.*?)^"""$', source)[1:]
    shown = ["".join(c["source"]) for c in cells[1:] if c["cell_type"] == "markdown"]
    assert [t.strip() for t in texts] == shown


def test_first_code_installs(tmp_path):
    source = '"""\nTitle: T\nDescription: D.\n"""\n\n"""\n# Text\n"""\n\nx = 1\n'
    title, install, text, code = make.cells(source)
    assert title["source"] == ["# T\n", "\n", "D."]
    assert '%pip install -q "../..[' in "".join(install["source"])
    assert install["metadata"] == {"tags": ["install"]}
    assert text["source"] == ["# Text"] and code["source"] == ["x = 1"]
    _, install, *_ = make.cells(source, "https://example.org/x")
    (line,) = install["source"]
    assert line.endswith('@ git+https://example.org/x" scikit-learn')
    assert json.loads(make.notebook(source))["nbformat"] == 4
