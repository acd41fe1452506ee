"""The files of a release: what they need, and how a package index shows them."""

import configparser
import re
import runpy
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).parents[2]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
SCRIPT = runpy.run_path(str(ROOT / "setup.py"))
README = (ROOT / "README.md").read_text()
URL = "https://example.org/keras_gradopt"


def without_code(text):
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def relative(text):
    """Targets of links and pictures, of Markdown and HTML, that are no addresses."""
    targets = re.findall(r"\]\(([^)\s]+)", without_code(text))
    targets += re.findall(r"(?:src|href)=[\"']([^\"']+)", text)
    return [t for t in targets if not re.match(r"\w+:|#", t)]


def test_the_package_needs_keras_and_numpy_alone():
    """The backend is the user's choice."""
    needed = SETUP["options"]["install_requires"].split()
    assert [re.split(r"[<>=]", name)[0] for name in needed] == ["keras", "numpy"]
    extras = SETUP["options.extras_require"]
    assert {"tensorflow", "jax", "torch", "tensorboard"} <= set(extras)
    (everything,) = extras["all"].split()
    assert set(re.search(r"\[(.*)\]", everything)[1].split(",")) == {
        *(set(extras) - {"all", "cuda"}),
    }


def test_links_of_the_readme_lead_somewhere():
    assert len(relative(README)) > 10
    for url in ("", URL):
        assert relative(SCRIPT["for_index"](README, url)) == []
    text = SCRIPT["for_index"](README, URL)
    assert f"[docs/training.md]({URL}/blob/main/docs/training.md)" in text
    anchor = "docs/guide/compose.md#on-some-variables-only"
    assert f"]({URL}/blob/main/{anchor})" in text
    assert "docs/training.md](" not in SCRIPT["for_index"](README, "")


@pytest.mark.parametrize(
    ("text", "without", "with_url"),
    [
        ("a [b](c.md#d) e", "a b e", f"a [b]({URL}/blob/main/c.md#d) e"),
        ("![b](c.png) e", " e", f"![b]({URL}/raw/main/c.png) e"),
        (
            "[![b](c.png)](d.md)",
            "",
            f"[![b]({URL}/raw/main/c.png)]({URL}/blob/main/d.md)",
        ),
        ("[![b](https://c/d.svg)](e)", "![b](https://c/d.svg)", None),
        ("[b](https://c) [d](#e)", None, None),
        ("f(x, [g()]) and `h[0]`", None, None),
        ("```python\na[0](b.md)\n```", None, None),
    ],
)
def test_links(text, without, with_url):
    assert SCRIPT["for_index"](text, "") == (text if without is None else without)
    if without is None or with_url is not None:
        assert SCRIPT["for_index"](text, URL) == (with_url or text)


def test_project_urls_come_from_one_setting():
    assert SCRIPT["project_urls"]("") == {}
    assert SCRIPT["project_urls"](URL)["Issues"] == f"{URL}/issues"
    assert SCRIPT["repository"]() == SETUP["repository"]["url"].rstrip("/")


@pytest.mark.slow
def test_files_of_a_release(tmp_path):
    """Both have no relative link, and an index takes them."""
    pytest.importorskip("build")
    pytest.importorskip("twine")
    command = [sys.executable, "-m", "build", "-o", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,), (source,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    check = [sys.executable, "-m", "twine", "check", "--strict", wheel, source]
    result = subprocess.run(check, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    with zipfile.ZipFile(wheel) as file:
        (name,) = (n for n in file.namelist() if n.endswith(".dist-info/METADATA"))
        of_wheel = file.read(name).decode()
    with tarfile.open(source) as file:
        top = source.name.removesuffix(".tar.gz")
        of_source = file.extractfile(f"{top}/PKG-INFO").read().decode()
        assert f"{top}/setup.py" in file.getnames()
    for metadata in map(Parser().parsestr, (of_wheel, of_source)):
        assert relative(metadata.get_payload()) == []
        assert "## Install" in metadata.get_payload()
        needed = [n for n in metadata.get_all("Requires-Dist") if "extra" not in n]
        assert sorted(re.split(r"[<>=]", n)[0] for n in needed) == ["keras", "numpy"]
