"""Image-classification data: loading by name, preprocessing, batches.

`load` finds a data set, `training_batches` and `validation_batches` make what
`model.fit` takes. Importing this registers our TFDS builders.
"""

from datasets.batches import training_batches, validation_batches
from datasets.catalogue import DATASETS, Dataset
from datasets.digits import Digits
from datasets.loading import Data, load, naming_unreadable_images
from datasets.preparing import DatasetError, prepared_builder
from datasets.preprocessing import PREPROCESSINGS, Preprocessing
from datasets.tiny_imagenet import TinyImagenet

__all__ = [
    "DATASETS",
    "PREPROCESSINGS",
    "Data",
    "Dataset",
    "DatasetError",
    "Digits",
    "Preprocessing",
    "TinyImagenet",
    "load",
    "naming_unreadable_images",
    "prepared_builder",
    "training_batches",
    "validation_batches",
]
