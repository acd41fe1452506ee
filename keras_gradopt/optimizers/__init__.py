"""The optimizers, each a Keras optimizer class."""

from keras_gradopt.optimizers.adal import AdaL
from keras_gradopt.optimizers.adam import AdaBelief, AdamCore, NosAdam, RAdam
from keras_gradopt.optimizers.adanorm import (
    AdaBeliefNorm,
    AdamNorm,
    DiffGradNorm,
    RAdamNorm,
)
from keras_gradopt.optimizers.angulargrad import AngularGrad, DiffGrad
from keras_gradopt.optimizers.gaf import GAFSGD, GAFAdam
from keras_gradopt.optimizers.sgd import SGDCore
from keras_gradopt.optimizers.transformed import Transformed
from keras_gradopt.optimizers.wgd import WGDSGD, WGDAdam, WGDNadam, WGDRAdam

__all__ = [
    "GAFSGD",
    "WGDSGD",
    "AdaBelief",
    "AdaBeliefNorm",
    "AdaL",
    "AdamCore",
    "AdamNorm",
    "AngularGrad",
    "DiffGrad",
    "DiffGradNorm",
    "GAFAdam",
    "NosAdam",
    "RAdam",
    "RAdamNorm",
    "SGDCore",
    "Transformed",
    "WGDAdam",
    "WGDNadam",
    "WGDRAdam",
]
