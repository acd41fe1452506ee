"""Fashion-MNIST from Debian's package `dataset-fashion-mnist`, without a network.

The package has the four published files, but without the name and the time in their
gzip headers. Written back, the files have the checksums that TFDS knows.
"""

import os
import struct
from pathlib import Path

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
# name without .gz, and the seconds in the header of the published file
FILES = {
    "train-images-idx3-ubyte": 1504176606,
    "train-labels-idx1-ubyte": 1504176606,
    "t10k-images-idx3-ubyte": 1504176627,
    "t10k-labels-idx1-ubyte": 1504176627,
}
HAS_NAME = 8  # RFC 1952, section 2.3.1


def local_folder() -> Path | None:
    """The folder that FASHION_MNIST_DIR names, or Debian's, if it has the files."""
    folder = Path(os.environ.get("FASHION_MNIST_DIR") or DEBIAN_FOLDER)
    found = all((folder / f"{name}.gz").is_file() for name in FILES)
    return folder if found else None


def with_header(compressed: bytes, name: str, seconds: int) -> bytes:
    """The same gzip file with a name and a time in its header."""
    magic, method, flags, _, extra = struct.unpack("<2sBBI2s", compressed[:10])
    if flags:  # as published
        return compressed
    header = struct.pack("<2sBBI2s", magic, method, HAS_NAME, seconds, extra)
    return header + name.encode() + b"\0" + compressed[10:]


def restore(source: Path, target: Path) -> None:
    """Writes the files as they were published."""
    for name, seconds in FILES.items():
        compressed = (source / f"{name}.gz").read_bytes()
        (target / f"{name}.gz").write_bytes(with_header(compressed, name, seconds))
