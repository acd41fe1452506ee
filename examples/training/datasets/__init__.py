"""Image-classification data: loading by name, preprocessing, batches.

`load` finds a data set, `training_batches` and `validation_batches` make what
`model.fit` takes. Importing this registers our TFDS builders.
"""

from training.datasets.animals10 import Animals10
from training.datasets.batches import training_batches, validation_batches
from training.datasets.catalogue import DATASETS, Dataset
from training.datasets.digits import Digits
from training.datasets.fgvc_aircraft import FgvcAircraft
from training.datasets.loading import Data, load, naming_unreadable_images
from training.datasets.mini_imagenet import MiniImagenet
from training.datasets.preparing import DatasetError, prepared_builder
from training.datasets.preprocessing import PREPROCESSINGS, Preprocessing
from training.datasets.tiny_imagenet import TinyImagenet

__all__ = [
    "DATASETS",
    "PREPROCESSINGS",
    "Animals10",
    "Data",
    "Dataset",
    "DatasetError",
    "Digits",
    "FgvcAircraft",
    "MiniImagenet",
    "Preprocessing",
    "TinyImagenet",
    "load",
    "naming_unreadable_images",
    "prepared_builder",
    "training_batches",
    "validation_batches",
]
