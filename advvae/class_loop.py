"""Which classes experiments go through, or take for normal. Imports no torch."""

from typing import TypeVar

from advvae.errors import UserError

Classes = TypeVar("Classes")

N_CLASSES = {
    **dict.fromkeys(("pneumoniamnist", "breastmnist", "photos"), 2),
    **dict.fromkeys(("mnist", "fashionmnist", "kmnist", "cifar10", "svhn", "digits"), 10),
    **dict.fromkeys(("organamnist", "organcmnist", "organsmnist"), 11),
    **dict.fromkeys(("bloodmnist", "tissuemnist"), 8),
    "octmnist": 4,
    "retinamnist": 5,
    "dermamnist": 7,
    "pathmnist": 9,
    "chestmnist": 14,
    "celeba": 40,
    "dtd": 47,
    "cifar100": 100,
    "tinyimagenet": 200,
    "places365": 365,
    "imagenet": 1000,
}


def class_loop(dataset: str) -> str:
    """A sweep over the classes of a set, one at a time, as typed: "[0],[1],[2]".

    Raises:
        UserError: nobody knows how many there are.
    """
    if dataset not in N_CLASSES:
        raise UserError(
            f"dataset={dataset}: type the classes to loop over, as in dataset.keep_classes=[0],[1] for "
            "experiment=one_class, dataset.drop_classes=[0],[1] for experiment=hold_out"
        )
    return ",".join(f"[{number}]" for number in range(N_CLASSES[dataset]))


def normal_classes(classes: Classes | None) -> Classes:
    """A dataset's classes that are normal, as its `normal` says.

    Raises:
        UserError: it has none.
    """
    if classes is None:
        raise UserError(
            "none of the dataset's classes is known to be the normal one: type it, as in dataset.keep_classes=[normal]"
        )
    return classes
