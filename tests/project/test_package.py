"""The package as a whole: public names, docstrings, packaging."""

import builtins
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from trajectories import BACKEND

import keras_gradopt
from keras_gradopt import equations, testing
from keras_gradopt.arguments import OptimizerKeywords

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).parents[2]
MODULES = ["keras_gradopt"] + [
    module.name
    for module in pkgutil.walk_packages(keras_gradopt.__path__, "keras_gradopt.")
]
PUBLIC = {
    **{name: getattr(keras_gradopt, name) for name in keras_gradopt.optimizers.__all__},
    **{
        name: getattr(keras_gradopt.transforms, name)
        for name in keras_gradopt.transforms.__all__
        if name != "LEFT_ALONE"
    },
    **{
        name: getattr(keras_gradopt.callbacks, name)
        for name in keras_gradopt.callbacks.__all__
    },
    "ActivationAdvice": keras_gradopt.ActivationAdvice,
    "check_optimizer": testing.check_optimizer,
    "checks": testing.checks,
    "inspect": keras_gradopt.inspect,
    "layerwise_decay": keras_gradopt.layerwise_decay,
    "split_cpu": testing.split_cpu,
    "recommend_activation": keras_gradopt.recommend_activation,
}


# what is returned or subclassed
NOTHING_TO_CALL = {
    *("ActivationAdvice", "Context", "Result", "Slot", "Transform", "Verdict"),
}


def test_every_public_name_is_listed():
    """What can be imported and has no underscore is in PUBLIC, or a module."""
    assert set(keras_gradopt.callbacks.__all__) <= set(PUBLIC)
    for module in (keras_gradopt, keras_gradopt.transforms):
        own = {
            name
            for name, value in vars(module).items()
            if inspect.isclass(value)
            and value.__module__.startswith("keras_gradopt")
            and not name.startswith("_")
        }
        assert own <= set(PUBLIC)


def test_star_import_shadows_nothing_of_the_standard_library():
    """Python's own `inspect` in particular; ours is `keras_gradopt.inspect`."""
    for name in MODULES:
        own = getattr(importlib.import_module(name), "__all__", ())
        assert not {*own} & {*sys.stdlib_module_names, *dir(builtins)}, name


@pytest.mark.parametrize("name", PUBLIC)
def test_public_class_has_a_docstring(name):
    documented = PUBLIC[name].__doc__ or ""
    arguments = set(inspect.signature(PUBLIC[name]).parameters) - {"keywords"}
    if name not in NOTHING_TO_CALL:
        assert ">>>" in documented, "no example"
        of_no_paper = (
            *("Transformed", "GradientMonitor", "inspect"),
            *("Only", "ScaleLearningRate", "layerwise_decay"),
            *("check_optimizer", "checks", "split_cpu"),
        )
        assert "Reference:" in documented or name in of_no_paper
        for argument in arguments - {"args", "kwargs"}:
            assert f"\n        {argument}: " in documented, argument
        assert "Raises:" in documented or not arguments


@pytest.mark.parametrize("name", keras_gradopt.optimizers.__all__)
def test_an_argument_says_what_it_is(name):
    """And does not send the reader to another class; Keras' keywords by name, too."""
    text = PUBLIC[name].__doc__.split("Args:")[1].split("Raises:")[0]
    assert not re.search(r"\b[Ss]ee\b|\b[Aa]s (in|of) `", text)
    if "keywords" in inspect.signature(PUBLIC[name]).parameters:
        for keyword in OptimizerKeywords.__annotations__:
            assert f"`{keyword}`" in text, keyword


@pytest.mark.parametrize("name", PUBLIC)
def test_public_methods_have_docstrings(name):
    for attribute, value in vars(PUBLIC[name]).items():
        if inspect.isfunction(value) and not attribute.startswith("_"):
            assert inspect.getdoc(getattr(PUBLIC[name], attribute)), attribute


def own_functions(value):
    """A public function, or the public methods of a public class, all of ours."""
    if inspect.isfunction(value):
        yield value
        return
    for cls in value.__mro__:
        for name, member in vars(cls).items():
            member = getattr(member, "fget", getattr(member, "__func__", member))
            public = name == "__init__" or not name.startswith("_")
            if public and inspect.isfunction(member):
                if member.__module__.startswith("keras_gradopt"):
                    yield member


@pytest.mark.parametrize(
    "value",
    [*PUBLIC.values(), *filter(inspect.isfunction, vars(equations).values())],
    ids=lambda value: value.__name__,
)
def test_public_functions_have_types(value):
    """All of them, so that `py.typed` says the truth; mypy checks that they fit."""
    for function in own_functions(value):
        signature = inspect.signature(function)
        untyped = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.annotation is parameter.empty and name not in ("self", "cls")
        ]
        if signature.return_annotation is signature.empty:
            untyped.append("what it returns")
        assert not untyped, f"{function.__qualname__}: {untyped}"


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    assert module.__doc__
    failed, _ = doctest.testmod(module)
    assert failed == 0


def test_examples_are_not_few():
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = sum(
        len(test.examples)
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
    )
    assert examples > 2 * len(keras_gradopt.optimizers.__all__)


def test_uses_public_keras_only():
    for path in (ROOT / "keras_gradopt").rglob("*.py"):
        assert "keras.src" not in path.read_text(), path


@pytest.mark.skipif(BACKEND != "tensorflow", reason="once is enough")
def test_wheel_holds_the_package_and_nothing_else(tmp_path):
    pytest.importorskip("build")
    command = [sys.executable, "-m", "build", "--wheel", "-o", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "keras_gradopt/py.typed" in names
    assert "keras_gradopt/optimizers/transformed.py" in names
    top = {name.split("/")[0] for name in names}
    assert top == {
        "keras_gradopt",
        f"keras_gradopt-{keras_gradopt.__version__}.dist-info",
    }


def import_with(code, **environment):
    """Imports the package in a new process, after `code`; what it wrote to stderr."""
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport keras_gradopt\nprint('imported')"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    return "imported" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("code", "environment", "imports", "message"),
    [
        (
            "import sys, types; sys.modules['keras'] = k = types.ModuleType('keras'); "
            "k.__version__ = '2.15.0'",
            {},
            False,
            "ImportError: keras_gradopt needs Keras 3.* Keras 2.15.0 is installed",
        ),
        ("", {"TF_USE_LEGACY_KERAS": "1"}, False, "ImportError: TF_USE_LEGACY_KERAS"),
        (
            "import sys, types; sys.modules['tf_keras'] = types.ModuleType('tf_keras')",
            {},
            True,
            "UserWarning: tf_keras .* is imported in this process",
        ),
        (
            "import sys; sys.modules['jax'] = None",
            {"KERAS_BACKEND": "jax"},
            False,
            r"ImportError: Keras is to run on jax, .* 'keras-gradopt\[jax\]', or set",
        ),
        (
            "import sys; sys.modules['numpy'] = None",
            {},
            False,
            "ModuleNotFoundError: (?!Keras)",
        ),
    ],
    ids=["old Keras", "legacy Keras", "tf_keras beside", "no backend", "no module"],
)
def test_unsupported_keras_is_one_sentence(code, environment, imports, message):
    imported, errors = import_with(code, **environment)
    assert imported == imports
    assert re.search(message, errors), errors[-2000:]
