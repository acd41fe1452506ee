"""Files written by this and earlier versions load, and training goes on as it did."""

from pathlib import Path

import keras
import numpy as np
import pytest
from formats.write import steps, weights
from table import ALL

import keras_gradopt

pytestmark = [pytest.mark.oldest, pytest.mark.quick]

FORMATS = Path(__file__).parents[1] / "formats"
FILES = sorted(FORMATS.glob("*/*.keras"))


def test_this_version_has_files_of_every_optimizer():
    folder = FORMATS / keras_gradopt.__version__
    assert {path.stem for path in folder.glob("*.keras")} == set(ALL)


@pytest.mark.parametrize(
    "path", FILES, ids=lambda path: f"{path.parent.name} {path.stem}"
)
def test_saved_file_goes_on_as_it_did(path):
    model = keras.saving.load_model(path)
    assert int(model.optimizer.iterations) == 3
    steps(model, 3, 5)
    with np.load(path.parent / "expected.npz") as expected:
        for i, ours in enumerate(weights(model)):
            np.testing.assert_allclose(
                ours, expected[f"{path.stem}/{i}"], rtol=1e-5, atol=1e-6
            )
