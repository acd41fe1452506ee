"""The documentation: its examples run, and its tables state the arguments as they are.

That every public name is documented is checked when it is built (docs/hooks.py).
"""

import ast
import doctest
import inspect
import re
from pathlib import Path

import pytest
from test_package import PUBLIC

DOCS = Path(__file__).parent.parent / "docs"
GUIDES = sorted(DOCS.glob("guide/*.md"))
METHODS = sorted(set(DOCS.glob("methods/*.md")) - {DOCS / "methods/index.md"})
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ARGUMENT = re.compile(r"^\| `(\w+)` \| `(.+?)` \|", re.MULTILINE)


@pytest.mark.parametrize("page", GUIDES + METHODS, ids=lambda page: page.stem)
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
