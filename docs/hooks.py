"""What mkdocs.yml cannot say: equations, examples, and no public name without a page.

Loaded by MkDocs and by griffe, which reads docstrings; not a page of the site.
"""

import os
import re
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parent.parent
PUBLIC_MODULES = [
    "keras_gradopt",
    "keras_gradopt.transforms",
    "keras_gradopt.callbacks",
    "keras_gradopt.comparison",
    "keras_gradopt.equations",
    "keras_gradopt.testing",
]
BESIDE_ALL = ["keras_gradopt.inspect"]  # public, but not in __all__
documented = set()  # anchors on all pages


def math(source, language, css_class, options, md, **keywords):
    """A fenced block of LaTeX as MathML, which browsers show without a script."""
    source = source.replace("{aligned}", "{align*}")  # all that the converter knows
    return f'<div class="math">{convert(source, display="block")}</div>'


def on_config(config):
    """Adds the fence "math" (the repository's web view knows it, too).

    Where mike publishes one version of several, also the menu of versions; elsewhere
    it would look for a list of them that is not there.
    """
    if "MIKE_DOCS_VERSION" in os.environ:
        config.extra["version"] = {"provider": "mike"}
    fence = {"name": "math", "class": "math", "format": math}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    documented.clear()
    return config


def on_page_content(html, **keywords):
    """Collects what has a place on a page; pictures become links to themselves.

    Short cells of tables and short code are not broken, as "92.45 ± 0.09" would be.
    """
    documented.update(re.findall(r'\bid="(keras_gradopt[\w.]*)"', html))
    link = r'<a class="figure" href="\2" title="Enlarge">\1</a>'
    html = re.sub(r'(<img\b[^>]*\bsrc="([^"]+)"[^>]*>)', link, html)
    short = r"[^<]{1,16}|[-+±0-9.,%eto ]{1,26}"
    cell = rf"<td((?: style=[^>]*)?)>({short}|<strong>(?:{short})</strong>)</td>"
    html = re.sub(cell, r'<td\1 class="short">\2</td>', html)
    code = r"<code>([^<\n]{1,24})</code>"
    return re.sub(code, r'<code class="short">\1</code>', html)


def on_env(env, config, files):
    """Fails the build if a public name is on no page, or has no docstring.

    Raises:
        PluginError: with all of them.
    """
    package = griffe.load("keras_gradopt", search_paths=[ROOT], resolve_aliases=True)
    listed = [
        f"{module}.{name}"
        for module in PUBLIC_MODULES
        for name in names(package.modules_collection[module])
    ]
    public = {
        name: package[name.removeprefix("keras_gradopt.")]
        for name in [*listed, *BESIDE_ALL]
    }
    absent = [n for n in public if n not in documented and not public[n].is_module]
    faults = [f"{n} is on no page of docs/api" for n in absent]
    faults += [f"{n} has no docstring" for n, o in public.items() if not o.docstring]
    if faults:
        raise PluginError("Public, but not documented:\n- " + "\n- ".join(faults))


def names(module):
    """A module's public names: `__all__`, or its functions."""
    if module.exports is None:
        return [n for n in module.functions if not n.startswith("_")]
    return [n for n in module.exports if not n.startswith("__")]


class Docstrings(griffe.Extension):
    """Examples in colours; types and defaults once, in the signature."""

    def on_object(self, *, obj, **keywords):
        """Called for everything that has a docstring."""
        if obj.docstring:
            # indented, they become a section of their own
            obj.docstring.value = re.sub(
                r"^Example:\n\n((?:.+\n?)+)",
                lambda block: "Examples:\n" + re.sub("(?m)^", "    ", block[1]),
                obj.docstring.value,
                flags=re.MULTILINE,
            )
            obj.docstring.value = re.sub(
                r"\s+Defaults\s+to\s+`[^`]+`\.", "", obj.docstring.value
            )
            for section in obj.docstring.parsed:
                if section.kind is griffe.DocstringSectionKind.parameters:
                    for parameter in section.value:
                        parameter.annotation = parameter.value = None
