"""Executes the notebooks of examples/notebooks and puts them on the site.

Each is executed when the site is built, in a folder of its own, and fails the build if
a cell fails. What it printed and drew is kept in build/notebooks, and is taken from
there until the notebook, the package or a version changes.
"""

import base64
import hashlib
import os
import sys
import tempfile
import textwrap
from importlib.metadata import distributions
from pathlib import Path

import nbformat
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parent.parent
CACHE = ROOT / "build" / "notebooks"
WIDTH = 80  # of what is printed, in characters

sys.path.insert(0, str(ROOT / "examples" / "notebooks"))
import make  # noqa: E402


def on_files(files, config):
    """Adds a page, its pictures and the notebook itself, for each."""
    for path in make.SOURCES:
        path = path.with_suffix(".ipynb")
        text, pictures = page(executed(path), path.stem)
        add = {f"{path.stem}.md": text, path.name: path.read_bytes(), **pictures}
        for name, content in add.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def executed(path):
    """The notebook with its outputs."""
    kept = CACHE / f"{path.stem}-{key(path)}.ipynb"
    if kept.exists():
        return nbformat.read(kept, 4)
    notebook = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            skip_cells_with_tag="install",
        )
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            raise PluginError(f"{path.name}: {error}") from error
    for old in CACHE.glob(f"{path.stem}-*.ipynb"):
        old.unlink()
    kept.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, kept)
    return notebook


def key(path):
    """Of all that the outputs depend on."""
    files = [path, *sorted((ROOT / "keras_gradopt").rglob("*.py"))]
    parts = [file.read_bytes() for file in files]
    parts += sorted(f"{d.name} {d.version}".encode() for d in distributions())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def page(notebook, name):
    """The text of a page, and its pictures by their names."""
    parts, pictures = [], {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            if len(parts) == 1:
                parts.append(links(name))
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            if output.output_type == "stream":
                if output.name == "stdout":  # the other has what TensorFlow reports
                    parts.append(printed(output.text))
            elif "image/png" in output.data:
                picture = f"{name}_{len(pictures)}.png"
                pictures[picture] = base64.b64decode(output.data["image/png"])
                parts.append(f"![{alternative(cell.source)}]({picture})")
            elif "text/markdown" in output.data:
                parts.append(deeper(output.data["text/markdown"]))
            elif "text/plain" in output.data:
                parts.append(printed(output.data["text/plain"]))
    return "\n\n".join(parts) + "\n", pictures


def links(name):
    """Where the notebook itself is."""
    found = f"[Download this notebook]({name}.ipynb)"
    url = make.repository()
    if url.startswith("https://github.com/"):
        where = url.removeprefix("https://github.com/")
        colab = "https://colab.research.google.com/github"
        at = f"{colab}/{where}/blob/main/examples/notebooks/{name}.ipynb"
        found += f" · [open it in Colab]({at})"
    return found


def printed(text):
    """A block of text whose long lines are broken."""
    wrap = textwrap.TextWrapper(
        WIDTH,
        subsequent_indent="    ",
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    lines = [
        wrap.fill(line) if len(line) > WIDTH else line
        for line in text.rstrip().splitlines()
    ]
    return "\n".join(["```{.text .output}", *lines, "```"])


def deeper(text):
    """Markdown with its headings as bold lines: the page has its own."""
    lines = text.splitlines()
    return "\n".join(
        f"**{line.lstrip('# ')}**" if line.startswith("#") else line for line in lines
    )


def alternative(source):
    """What a picture shows: the last line of the cell that drew it."""
    return f"Drawn by {source.splitlines()[-1]}".translate(str.maketrans("[]`", "()'"))
