"""The networks of the examples, by name."""

from models.resnet import resnet20

MODELS = {"resnet20": resnet20}
