"""
Title: Notebooks from their sources
Description: Writes the .ipynb of each example beside this file.

    python examples/notebooks/make.py

The sources are Python files in the form of the examples of keras.io: a first block of
fields (title, dates, description), then blocks of Markdown, in three double quotes, and
code between them. Edit these, never a notebook. What installs the package is added
here, as a notebook has to bring along what a script finds: from the address in
setup.cfg (`[repository] url`) or, if that is empty, from the copy the notebook is in.
"""

import configparser
import json
import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCES = sorted(set(HERE.glob("*.py")) - {Path(__file__)})
EXTRAS = "comparison,tensorflow"
BLOCK = re.compile(r'^"""\n(.*?)^"""$', re.DOTALL | re.MULTILINE)


def repository() -> str:
    """The repository's address, or nothing."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup.get("repository", "url", fallback="").strip().rstrip("/")


def header(source: str) -> dict[str, str]:
    """The fields of the first block: Title, Description and so on.

    Args:
        source: the text of a source file.
    """
    first = BLOCK.match(source)
    assert first, "a source begins with a block of fields"
    return dict(line.split(": ", 1) for line in first[1].splitlines())


def cells(source: str, url: str = "") -> list[dict]:
    """The cells of a source, with what installs the package after the title.

    Args:
        source: the text of a source file.
        url: the repository's address. Defaults to `""`: none is known.
    """
    fields = header(source)
    where = (
        "" if url else "# in a copy of the repository, whose top is two folders up\n"
    )
    package = f"keras-gradopt[{EXTRAS}] @ git+{url}" if url else f"../..[{EXTRAS}]"
    install = f'{where}%pip install -q "{package}" scikit-learn'
    found = [
        ("markdown", f"# {fields['Title']}\n\n{fields['Description']}"),
        ("code", install),
    ]
    _, first, *rest = BLOCK.split(source)
    assert first.startswith("Title: ")
    for number, text in enumerate(rest):
        if text.strip():
            found.append(("markdown" if number % 2 else "code", text.strip()))
    return [
        {
            "cell_type": kind,
            "id": f"cell-{number}",
            "metadata": {"tags": ["install"]} if number == 1 else {},
            **({"execution_count": None, "outputs": []} if kind == "code" else {}),
            "source": text.splitlines(keepends=True),
        }
        for number, (kind, text) in enumerate(found)
    ]


def notebook(source: str, url: str = "") -> str:
    """The text of an .ipynb file, without outputs.

    Args:
        source: the text of a source file.
        url: the repository's address. Defaults to `""`: none is known.
    """
    content = {
        "cells": cells(source, url),
        "metadata": {
            "kernelspec": {
                "display_name": "Python 3", "language": "python", "name": "python3"
            },
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }  # fmt: skip
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes all of them."""
    for path in SOURCES:
        path.with_suffix(".ipynb").write_text(notebook(path.read_text(), repository()))
        print(path.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
