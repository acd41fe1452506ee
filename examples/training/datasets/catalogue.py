"""The data sets of the papers and a few common ones, with what is done to each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dataset:
    """How a data set is read and prepared.

    Args:
        tfds_name: What `tfds.builder` takes.
        image_size: Height and width that the papers train at.
        preprocessing: A name in `PREPROCESSINGS`.
        train: Split to train on.
        validation: Split to validate on.
        needs: What to do before the first use. `{folder}` stands for the folder where
            TFDS looks for files of the user's.
    """

    tfds_name: str
    image_size: int
    preprocessing: str
    train: str = "train"
    validation: str = "test"
    needs: str = "tfds build {name} --data_dir={data_dir}"


DATASETS = {
    # ready after seconds, without a network
    "digits": Dataset("digits", 8, "shift", needs="nothing: scikit-learn ships it"),
    # AngularGrad, section 6.2.2; AdaNorm and AdaL, sections 4 and 3; GAF, III-C
    "cifar10": Dataset("cifar10", 32, "cifar"),
    # The same; and WGD, section 4.2, at size 224
    "cifar100": Dataset("cifar100", 32, "cifar"),
    "svhn_cropped": Dataset("svhn_cropped", 32, "shift"),
    "mnist": Dataset("mnist", 28, "shift"),
    "fashion_mnist": Dataset("fashion_mnist", 28, "shift"),
    "imagenette": Dataset("imagenette", 224, "imagenet", validation="validation"),
    # AdaNorm, section 4; the released code trains at 32 of the 64 pixels
    "tiny_imagenet": Dataset(
        "tiny_imagenet",
        32,
        "cifar",
        validation="validation",
        needs="unpack tiny-imagenet-200.zip in {manual_dir}",
    ),
    # AngularGrad, section 6.2.3; WGD, section 4.2
    "mini_imagenet": Dataset(
        "mini_imagenet",
        224,
        "resize",
        needs="put images/ and train.csv, val.csv and test.csv in "
        "{manual_dir}/mini-imagenet",
    ),
    "animals10": Dataset(
        "animals10",
        224,
        "resize",
        needs="unpack archive.zip, which has raw-img/, in {manual_dir}/animals10",
    ),
    # GAF, section III-C
    "imagenet2012": Dataset(
        "imagenet2012",
        224,
        "imagenet",
        validation="validation",
        needs="put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar in {manual_dir}",
    ),
    # AngularGrad, section 6.2.4
    "cars196": Dataset("cars196", 448, "fine_grained"),
    "fgvc_aircraft": Dataset(
        "fgvc_aircraft",
        448,
        "fine_grained",
        needs="unpack fgvc-aircraft-2013b.tar.gz in {manual_dir}",
    ),
    "stanford_dogs": Dataset("stanford_dogs", 448, "fine_grained"),
    "caltech_birds2011": Dataset("caltech_birds2011", 448, "fine_grained"),
    "oxford_flowers102": Dataset(
        "oxford_flowers102", 448, "fine_grained", validation="validation"
    ),
}
