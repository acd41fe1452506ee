"""The check, at import, that Keras has a backend and is one that works."""

import os
import re
import sys
import warnings

try:
    import keras
except ModuleNotFoundError as missing:
    _backend = str(missing.name).partition(".")[0]
    if _backend not in ("tensorflow", "jax", "torch"):
        raise
    raise ImportError(
        f"Keras is to run on {_backend}, which is not installed: pip install "
        f"'keras-gradopt[{_backend}]', or set KERAS_BACKEND to the one of "
        "tensorflow, jax and torch that is"
    ) from missing

OLDEST_KERAS = (3, 10)


def check() -> None:
    """Raises `ImportError` for a Keras that cannot work; warns of Keras 2 beside it."""
    version = str(getattr(keras, "__version__", "unknown"))
    found = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if found < OLDEST_KERAS:
        oldest = ".".join(map(str, OLDEST_KERAS))
        raise ImportError(
            f"keras_gradopt needs Keras {oldest} or newer, but Keras {version} is "
            f"installed: pip install 'keras>={oldest}'"
        )
    if os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        raise ImportError(
            "TF_USE_LEGACY_KERAS is set, which makes tf.keras Keras 2 (tf_keras), "
            "whose models cannot use the Keras 3 optimizers of keras_gradopt: unset it"
        )
    if "tf_keras" in sys.modules:
        warnings.warn(
            "tf_keras (Keras 2) is imported in this process: its models cannot use the "
            "Keras 3 optimizers of keras_gradopt, only those of keras can.",
            stacklevel=3,
        )
