"""TFDS builders, prepared; and one clear sentence where that cannot be."""

import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import tensorflow_datasets as tfds

from training.datasets import fashion_mnist
from training.datasets.catalogue import DATASETS, Dataset

OFFLINE = """\
Without a network these work: digits; fashion_mnist, after `apt install \
dataset-fashion-mnist` or with its four files in the folder that FASHION_MNIST_DIR \
names; folder:/path, a folder of images for each class; and every prepared data set."""
PREPARATION_ERRORS = (
    AssertionError,  # of TFDS, without the files that it cannot download
    OSError,
    tfds.download.DownloadError,
    tfds.core.download.download_manager.NonMatchingChecksumError,
)


class DatasetError(Exception):
    """A data set cannot be had; the message says why and what to do."""


def prepared_builder(
    name: str, data_dir: str | None = None
) -> tfds.core.DatasetBuilder:
    """The TFDS builder of that name, ours or TFDS' own, prepared if it was not yet.

    Args:
        name: As for `tfds.builder`, or the folder of one prepared data set.
        data_dir: Where TFDS keeps data sets. Default: `~/tensorflow_datasets`.

    Raises:
        DatasetError: There is none of that name, or it cannot be prepared.
    """
    if Path(name, "dataset_info.json").is_file():
        return tfds.builder_from_directory(name)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        raise DatasetError(
            f"There is no data set {name!r}. Known are {', '.join(sorted(DATASETS))}; "
            "the image classification of https://www.tensorflow.org/datasets/catalog; "
            "and folder:/path."
        ) from None
    except (AssertionError, ValueError) as error:  # no such version or configuration
        raise DatasetError(str(error)) from error
    if not builder.is_prepared():
        prepare(builder, name)
    return builder


def prepare(builder: tfds.core.DatasetBuilder, name: str) -> None:
    """Downloads and prepares; finds out first whether it can."""
    data_dir = str(builder.data_path).removesuffix(builder.info.full_name).rstrip("/")
    manual_dir = Path(data_dir, "downloads", "manual")
    needs = DATASETS.get(builder.name, Dataset).needs.format(
        name=name, data_dir=data_dir, manual_dir=manual_dir
    )
    missing = f"{name} is not prepared in {data_dir}"
    local = fashion_mnist.local_folder() if builder.name == "fashion_mnist" else None
    by_hand = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    files = builder.url_infos or {}
    if not (
        local
        or by_hand
        or any((manual_dir / file.filename).exists() for file in files.values())
    ):
        # behind a proxy the host itself need not answer
        behind_proxy = bool(urllib.request.getproxies())
        one_of_each = {host_of(url): url for url in sorted(files)}
        for (host, port), url in sorted(one_of_each.items()):
            if refused(url) if behind_proxy else not answers(host, port):
                raise DatasetError(
                    f"{missing}, and {host} does not answer. Where there is a network, "
                    f"run\n\n    {needs}\n\nand copy {data_dir}/{builder.name} to the "
                    f"same place here, or to that of --data-dir. {OFFLINE}"
                )
    try:
        with TemporaryDirectory() as folder:
            config = tfds.download.DownloadConfig()
            if local:
                fashion_mnist.restore(local, Path(folder))
                config.manual_dir = folder
                config.try_download_gcs = False
            builder.download_and_prepare(download_config=config)
    except PREPARATION_ERRORS as error:
        if by_hand:
            by_hand = " ".join(by_hand.split())
            raise DatasetError(
                f"{missing}. First {needs}. ({by_hand}) {OFFLINE}"
            ) from error
        raise DatasetError(f"{missing}, and that failed: {error}. {OFFLINE}") from error


def host_of(url: str) -> tuple[str, int]:
    """Host and port that a URL is fetched from."""
    parts = urlsplit(url)
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def answers(host: str, port: int, seconds: float = 2.0) -> bool:
    """Whether a host takes a connection, found out within that time.

    In a thread, because looking up the name has no time limit of its own.
    """
    found = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            found.set()
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return found.is_set()


def refused(url: str, seconds: float = 2.0) -> bool:
    """Whether a proxy fails within that time to reach the host of a URL."""
    failed = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=seconds).close()
        except urllib.error.HTTPError:
            pass  # the host has answered
        except TimeoutError:
            pass  # slow, perhaps
        except OSError:
            failed.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return failed.is_set()
