"""`fit` with ModelParallel on forced host devices. Arguments: output folder."""

import os
import sys

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_ENABLE_X64"] = "0"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import keras
from problem import FAMILIES, fitted, new_model, save

mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"])
layout = keras.distribution.LayoutMap(mesh)
layout[".*conv/kernel"] = (None, None, None, "model")
layout[".*conv/bias"] = ("model",)
layout[".*dense/kernel"] = ("model", None)
keras.distribution.set_distribution(
    keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
)
sharding = new_model().get_layer("conv").kernel.value.sharding
assert "model" in str(sharding.spec), sharding
for name in FAMILIES:
    save(sys.argv[1], name, fitted(name))
