"""Around the code: stages of CI, workflows, hooks, issue forms, the citation."""

import configparser
import itertools
import re
import subprocess
from pathlib import Path

import pytest
from trajectories import module_marks

import keras_gradopt

yaml = pytest.importorskip("yaml")

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
SCRIPT = (ROOT / ".ci" / "run").read_text()
STAGES = set(re.findall(r"(?m)^(\w+)\(\) \{", SCRIPT)) - {"stage"}
STAGE = re.compile(r"bash \.ci/run (\w+)(.*)")
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
FORMS = sorted(set(GITHUB.glob("ISSUE_TEMPLATE/*.yml")))
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def parsed(path):
    return yaml.safe_load((ROOT / path).read_text())


def commands(workflow):
    """What its steps run, once for each entry of a job's matrix."""
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for values in itertools.product(*matrix.values()):
            for step in job.get("steps", []):
                command = step.get("run", "")
                for key, value in zip(matrix, values):
                    command = command.replace(f"${{{{ matrix.{key} }}}}", value)
                if command:
                    yield command


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_only_call_stages(path):
    called = list(commands(parsed(path)))
    assert called
    for command in called:
        assert STAGE.fullmatch(command), command
        assert STAGE.fullmatch(command)[1] in STAGES, command


def test_workflows_check_what_ci_checks():
    """Each stage of a whole run; `readme` is the installation and the fast tests."""
    whole = re.findall(r"(?m)^stage (.+)$", SCRIPT)
    expected = {*whole, "fast tensorflow", "fast jax"} - {"readme"}
    called = set(commands(parsed(".github/workflows/tests.yml")))
    assert {f"bash .ci/run {stage}" for stage in expected} <= called


def test_workflows_use_what_they_need():
    """Files of a release are those that were tested; only publishing has rights."""
    release = parsed(".github/workflows/release.yml")
    triggers = release[True]  # so YAML reads "on"
    assert triggers == {"push": {"tags": ["v*"]}}
    assert release["permissions"] == {"contents": "read"}
    jobs = release["jobs"]
    assert jobs["tests"]["uses"] == "./.github/workflows/tests.yml"
    assert "workflow_call" in parsed(".github/workflows/tests.yml")[True]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert set(jobs["publish"]["needs"]) == {"tests", "files"}
    used = [step.get("uses", "") for step in jobs["publish"]["steps"]]
    assert used[-1].startswith("pypa/gh-action-pypi-publish@")


def run_ci(*arguments, root=ROOT):
    return subprocess.run(
        ["bash", root / ".ci" / "run", *arguments], capture_output=True, text=True
    )


@pytest.mark.parametrize("name", ["nonsense", "ls"])
def test_what_is_no_stage_is_refused(name):
    result = run_ci(name)
    assert result.returncode == 2
    assert f"{name} is no stage" in result.stderr


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("v1.2.4", "The tag is v1.2.4, keras_gradopt/version.py has 1.2.3"),
        ("1.2.3", "The tag is 1.2.3,"),
        ("v1.2.3", "CHANGELOG.md has no heading '## 1.2.3 (YYYY-MM-DD)'"),
    ],
)
def test_unprepared_release_is_refused(tag, said, tmp_path):
    for folder in (".ci", "keras_gradopt"):
        (tmp_path / folder).mkdir()
    (tmp_path / ".ci" / "run").write_text(SCRIPT)
    (tmp_path / "keras_gradopt" / "version.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3 (unreleased)\n")
    result = run_ci("release", tag, root=tmp_path)
    assert result.returncode == 1
    assert said in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_markers_are_declared():
    """And an undeclared one is an error, not a test that nobody chooses."""
    assert "--strict-markers" in SETUP["tool:pytest"]["addopts"]


def test_marks_of_a_module_are_read_without_importing_it(tmp_path):
    module = tmp_path / "test_some.py"
    module.write_text(
        "import not_there\n"
        "pytestmark = [\n    pytest.mark.slow,\n    pytest.mark.some(reason='x'),\n]\n"
        "@pytest.mark.other\ndef test(): ...\n"
    )
    assert module_marks(module) - {"mark"} == {"slow", "some"}


def test_backend_independent_is_said_of_whole_modules():
    """On one test it would do nothing."""
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        assert not re.search(r"(?m)^\s*@.*backend_independent", path.read_text()), path


def test_hooks_are_those_of_the_tests():
    extra = SETUP["options.extras_require"]["test"].split()
    (ruff,) = (line for line in extra if line.startswith("ruff"))
    (repository,) = parsed(".pre-commit-config.yaml")["repos"]
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    for name in ("ruff-check", "ruff-format"):
        assert hooks[name]["additional_dependencies"] == [ruff]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_can_be_filled_in(path):
    form = parsed(path)
    if path.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids))
    for field in fields:
        assert field["attributes"]["label"]
        if field["type"] == "dropdown":
            assert all(isinstance(o, str) for o in field["attributes"]["options"])
    if path.stem == "method":
        assert {"paper", "code", "inert"} <= set(ids)


def test_citation_has_the_five_papers():
    """As the pages of the methods have them."""
    citation = parsed("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == keras_gradopt.__version__
    assert citation["license"] == SETUP["metadata"]["license"]
    assert citation["message"] and citation["title"] and citation["authors"]
    pages = sorted((ROOT / "docs" / "methods").glob("*.md"))
    text = " ".join(" ".join(page.read_text().split()) for page in pages)
    assert len(citation["references"]) == 5
    for paper in citation["references"]:
        assert paper["title"] in text
        assert paper.get("url", f"https://doi.org/{paper.get('doi')}") in text
        first = paper["authors"][0]["family-names"]
        said = rf"{first} (?:et al\.|and \w+) \({paper['year']}\), \[?{paper['title']}"
        assert re.search(said, text), said
        assert all(author["given-names"] for author in paper["authors"])
