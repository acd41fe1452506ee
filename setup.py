"""What setup.cfg cannot say: README.md as a package index shows it, and project links.

Both need the address of the repository, which is one setting: `url` in setup.cfg.
"""

import configparser
import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


def repository() -> str:
    """The address in setup.cfg, or an empty string."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return settings["repository"]["url"].rstrip("/")


def for_index(text: str, url: str) -> str:
    """Markdown without relative links, which lead nowhere outside of the repository.

    They become links to `url`; without one, the text of a link stays and a picture
    goes. Blocks of code stay as they are.
    """
    parts = re.split(r"(?ms)(^```.*?^```$)", text)
    return "".join(
        part if part.startswith("```") else _absolute(part, url) for part in parts
    )


def _absolute(text, url):
    relative = r"\((?!\w+:|#)([^)\s]+)\)"  # neither an address nor an anchor
    picture, link = (
        rf"!\[([^]]*)\]{relative}",
        rf"(?<!!)\[((?:[^][]|!?\[[^]]*\](?:\([^)]*\))?)*)\]{relative}",
    )
    text = re.sub(picture, rf"![\1]({url}/raw/main/\2)" if url else "", text)
    return re.sub(link, rf"[\1]({url}/blob/main/\2)" if url else r"\1", text)


def project_urls(url: str) -> dict[str, str]:
    """What a package index links to."""
    if not url:
        return {}
    return {
        "Source": url,
        "Issues": f"{url}/issues",
        "Changelog": f"{url}/blob/main/CHANGELOG.md",
    }


if __name__ == "__main__":
    setup(
        long_description=for_index((ROOT / "README.md").read_text(), repository()),
        long_description_content_type="text/markdown",
        project_urls=project_urls(repository()),
    )
