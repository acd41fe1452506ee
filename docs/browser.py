"""Looks at every page of the built site in a real browser, wide and narrow.

    pip install selenium && python docs/browser.py build/site
    python docs/browser.py build/site --pages index.html study.html --screenshots shots

Needs Chromium or Chrome with its driver (Debian: chromium chromium-driver). At 1280 and
at 400 pixels it fails on errors in the console, on pages wider than the window (wide
tables, equations and code must scroll within themselves), on pictures that cannot be
shown, and on a search that finds nothing, by HTTP and from files alike.
"""

import argparse
import functools
import http.server
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

WIDTHS = (1280, 400)
HEIGHT = 900
SEARCHES = ("AngularGrad", "learning rates by layer", "ClipAdaptively")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

LOOK = """
for (const picture of document.images) picture.loading = "eager";
const width = document.documentElement.clientWidth;
const scrolls = e => /auto|scroll|hidden|clip/.test(getComputedStyle(e).overflowX);
const held = e => e && e !== document.body && (scrolls(e) || held(e.parentElement));
const wide = [...document.querySelectorAll("main *")].filter(
  e => e.getBoundingClientRect().right > width + 1 && !held(e.parentElement));
return {
  overflow: document.documentElement.scrollWidth - width,
  wide: wide.slice(0, 3).map(e => e.outerHTML.slice(0, 120)),
  broken: [...document.images].filter(i => i.complete && !i.naturalWidth)
    .map(i => i.src),
  waiting: [...document.images].filter(i => !i.complete).length,
};
"""


def browser(profile):
    """A browser without a window, on an empty profile."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    names = ("chromium", "chromium-browser", "google-chrome")
    found = [path for path in map(shutil.which, names) if path]
    if not found or not shutil.which("chromedriver"):
        sys.exit("There is no Chromium (or Chrome) with chromedriver here.")
    options.binary_location = found[0]
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    return webdriver.Chrome(options, service)


def resize(driver, width, height=HEIGHT):
    """Sets the size of the page, also below what a window can have."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def console(driver):
    """Errors since the last call."""
    logged = driver.get_log("browser")
    return [row["message"] for row in logged if row["level"] == "SEVERE"]


def faults_of(driver, url):
    """What is wrong with a page at the present width."""
    driver.get(url)
    seen = driver.execute_script(LOOK)
    for _ in range(50):
        if not seen["waiting"]:
            break
        time.sleep(0.1)
        seen = driver.execute_script(LOOK)
    faults = [f"console: {message}" for message in console(driver)]
    if seen["overflow"] > 0 or seen["wide"]:
        faults.append(f"{seen['overflow']} pixels too wide: {seen['wide']}")
    faults += [f"picture: {source}" for source in seen["broken"]]
    if seen["waiting"]:
        faults.append(f"{seen['waiting']} pictures did not load")
    return faults


def search_faults(driver, url):
    """What is wrong with the search of a page."""
    from selenium.webdriver.common.by import By

    faults = []
    for words in SEARCHES:
        driver.get(url)
        driver.execute_script("document.querySelector('#__search').click()")
        box = driver.find_element(By.CSS_SELECTOR, ".md-search__input")
        for _ in range(100):
            if box.is_displayed():
                break
            time.sleep(0.1)
        box.send_keys(words)
        for _ in range(100):
            results = driver.find_elements(By.CSS_SELECTOR, ".md-search-result__item")
            if results:
                break
            time.sleep(0.1)
        else:
            faults.append(f'the search finds nothing for "{words}"')
    return faults + [f"console: {message}" for message in console(driver)]


def screenshot(driver, width, path):
    """The whole page, up to a height that can be looked at."""
    whole = driver.execute_script("return document.documentElement.scrollHeight")
    resize(driver, width, min(whole, 6000))
    path.parent.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(path))
    resize(driver, width)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the site and tells nobody."""

    def log_message(self, *arguments):
        """Nothing."""


def serve(folder):
    """A server of the folder, and its address."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/"


def main():
    """Looks, and exits with 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="folder of the built site")
    parser.add_argument("--pages", nargs="+", help="default: all")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    pages = args.pages or sorted(
        str(path.relative_to(args.site)) for path in args.site.rglob("*.html")
    )
    pages = [page for page in pages if page != "404.html"]  # its links are the host's
    if not pages:
        sys.exit(f"There is no page in {args.site}.")
    server, address = serve(args.site)
    wrong = 0
    with tempfile.TemporaryDirectory() as profile:
        driver = browser(profile)
        try:
            for width in WIDTHS:
                resize(driver, width)
                checks = [(page, faults_of, address + page) for page in pages]
                files = (args.site / "index.html").resolve().as_uri()
                checks += [("search", search_faults, address + "index.html")]
                checks += [("search from files", search_faults, files)]
                for name, check, url in checks:
                    for fault in check(driver, url):
                        print(f"{name} at {width} pixels: {fault}")
                        wrong += 1
                    if args.screenshots and check is faults_of:
                        file = f"{name.removesuffix('.html').replace('/', '-')}-{width}"
                        screenshot(driver, width, args.screenshots / f"{file}.png")
        finally:
            driver.quit()
            server.shutdown()
    print(f"{len(pages)} pages at {WIDTHS} pixels, {wrong} faults")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
