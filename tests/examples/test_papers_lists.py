"""What the five papers trained, against what `train.py --list` offers."""

import contextlib

import pytest

pytest.importorskip("tensorflow_datasets")

from test_datasets import write_images
from training.datasets import DATASETS, PREPROCESSINGS
from training.models import MODELS
from training.recipes import RECIPES

pytestmark = pytest.mark.backend_independent

# as the papers' tables have them, and what each is called here; what detect.py lists
# (GAF, Table IV) is in test_detection_runs.py
PAPERS = {
    "AngularGrad": (
        {
            "CIFAR10": "cifar10",
            "CIFAR100": "cifar100",
            "Mini-ImageNet": "mini_imagenet",
            "Cars": "cars196",
            "Aircraft": "fgvc_aircraft",
            "CUB": "caltech_birds2011",
        },
        {
            "VGG16": "vgg16",
            "ResNet18": "resnet18",
            "ResNet34": "resnet34",
            "ResNet50": "resnet50",
            "ResNet101": "resnet101",
            "ResNeXt29": "resnext29_4x64d",
            "DLA": "dla",
            "DenseNet121": "densenet121",
            "ResNet18-WS": "resnet18_ws",
            "ResNet50-WS": "resnet50_ws",
            "ResNet101-WS": "resnet101_ws",
        },
    ),
    "AdaNorm": (
        {
            "CIFAR10": "cifar10",
            "CIFAR100": "cifar100",
            "TinyImageNet": "tiny_imagenet",
        },
        {"VGG16": "vgg16", "ResNet18": "resnet18", "ResNet50": "resnet50"},
    ),
    "GAF": (
        {"ImageNet": "imagenet2012", "CIFAR-10": "cifar10", "CIFAR-100": "cifar100"},
        {
            "ResNet-18": "resnet18",
            "ResNet-34": "resnet34",
            "ResNet-50": "resnet50",
            "SE-ResNet-18": "se_resnet18",
            "SE-ResNet-34": "se_resnet34",
            "SE-ResNet-50": "se_resnet50",
            "DenseNet-CIFAR": "densenet_cifar",
            "DenseNet-169": "densenet169",
            "DPN-26": "dpn26",
            "GoogLeNet": "googlenet",
            "RegNetX-200MF": "regnetx_200mf",
            "Pre-Act-ResNet-34": "preact_resnet34",
            "Pre-Act-ResNet-50": "preact_resnet50",
        },
    ),
    "AdaL": (
        {"CIFAR10": "cifar10", "CIFAR100": "cifar100"},
        {"ResNet-34": "resnet34", "DenseNet-121": "densenet121"},
    ),
    "WGD": (
        {"Animals-10": "animals10", "CIFAR100": "cifar100"},
        {
            "ResNet18": "resnet18",
            "ResNet50": "resnet50",
            "DenseNet121": "densenet121",
        },
    ),
}


@pytest.fixture
def settle():
    """The settings that flags of train.py give."""
    import train

    return lambda *flags: train.settle(train.parser().parse_args(flags))


def listed(capsys):
    """What `train.py --list` prints, by the first word of each title."""
    import train

    train.main(["--list"])
    found, title = {}, None
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("  "):
            found[title].append(line.strip().split(":")[0])
        else:
            title = line.split(" (")[0].rstrip(":")
            found[title] = []
    return found


def test_list_has_what_the_papers_trained(capsys):
    names = listed(capsys)
    for paper, (data, networks) in PAPERS.items():
        assert set(data.values()) <= set(names["data sets"]), paper
        assert set(networks.values()) <= set(names["networks"]), paper
        recipes = [n for n, r in RECIPES.items() if r.source.startswith(paper)]
        assert recipes and set(recipes) <= set(names["recipes"]), paper
    assert set(names["networks"]) == set(MODELS)
    assert set(names["preprocessings"]) == set(PREPROCESSINGS)


def test_every_recipe_trains_what_its_paper_did():
    """Network and data of its paper's lists, and a preprocessing by name."""
    for name, recipe in RECIPES.items():
        paper = recipe.source.split(",")[0]
        data, networks = PAPERS[paper]
        assert recipe.dataset in data.values(), name
        assert recipe.model in {*networks.values(), "ResNet50"}, name
        assert recipe.preprocessing in PREPROCESSINGS, name


def test_every_preprocessing_has_a_caller():
    used = {row.preprocessing for row in DATASETS.values()}
    assert used == set(PREPROCESSINGS)


@pytest.mark.parametrize(
    ("flags", "preprocessing"),
    [
        ([], None),  # that of the data set
        (["--preprocessing", "imagenet"], "imagenet"),
        (["--recipe", "angulargrad-miniimagenet"], "resize"),
        (
            ["--recipe", "angulargrad-miniimagenet", "--preprocessing", "imagenet"],
            "imagenet",
        ),
        # another data set has its own, but for what is not known
        (["--recipe", "gaf-cifar", "--dataset", "mnist"], None),
        (["--recipe", "gaf-cifar", "--dataset", "folder:x"], "cifar"),
        (
            ["--recipe", "gaf-cifar", "--dataset", "mnist", "--preprocessing", "shift"],
            "shift",
        ),
    ],
)
def test_preprocessing_is_a_choice(flags, preprocessing, settle):
    assert settle(*flags).preprocessing == preprocessing


def test_preprocessing_reaches_the_data(monkeypatch, tmp_path):
    """A folder that would get the crops of ImageNet is only resized."""
    import train

    @contextlib.contextmanager
    def set_up(args, run):
        yield

    for label in range(2):
        write_images(tmp_path / "data" / str(label), 3, 60 * label)
    seen = {}

    def build(args, run, data, steps):
        seen["data"] = data
        raise ValueError("enough")

    monkeypatch.setattr(train, "set_up", set_up)
    monkeypatch.setattr(train, "build", build)
    flags = ["--dataset", f"folder:{tmp_path / 'data'}", "--preprocessing", "resize"]
    flags += ["--batch-size", "2", "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        train.main(flags)
    assert seen["data"].preprocessing == "resize"


@pytest.mark.parametrize(
    ("flags", "balance"),
    [
        ([], "none"),
        (["--balance"], "weights"),
        (["--balance", "sampler"], "sampler"),
        (["--recipe", "wgd-animals"], "sampler"),
        (["--recipe", "wgd-animals", "--balance"], "weights"),
        (["--recipe", "wgd-animals", "--balance", "none"], "none"),
    ],
)
def test_balance_is_a_choice(flags, balance, settle):
    assert settle(*flags).balance == balance
