"""What the metrics of samples compare images in: features (B, F) of images (B, C, H, W) in [-1, 1]."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from advvae.distributed import first_ahead
from advvae.errors import UserError
from advvae.random_state import seeded_apart

SEED = 0  # that random features are drawn from: the same ones in every run
SMALLEST_SIDE = 32  # pixels; what VGG16, and LPIPS' AlexNet, have one pixel left of, or more
PACKAGES = {"torchmetrics": "torchmetrics", "torch_fidelity": "torch-fidelity"}  # module -> what pip calls it
INSTALL = "pip install 'advvae[metrics]'"

Built = TypeVar("Built")


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network that gives features, on its device.

    name: random, inception, or the class of a user's own.
    is_own: it is a user's own, of which nothing is known: not what its features follow from either.
    """

    name: str
    network: nn.Module
    is_own: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, F) in float32.

        Raises:
            UserError: a user's own network gives something else.
        """
        features = self.network(images)
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            given = f"({', '.join(map(str, features.shape))})" if isinstance(features, Tensor) else type(features)
            raise UserError(f"features={self.name} gives {given} for {len(images)} images: it must give (B, F)")
        return features.float()


class RandomFeatures(nn.Module):
    """The 512 maps of the last convolutions of a VGG16 drawn at random, averaged over the map.

    Of images unlike ImageNet's, they tell more than those of a network trained on that (Naeem et al. 2020). The weights
    are torchvision's but for a factor, their fan being that of the inputs: features keep the scale of the images.
    """

    def __init__(self) -> None:
        from torchvision.models import vgg16

        super().__init__()
        with torch.device("meta"):  # draws nothing, and makes no room for the classifier, most of all weights
            self.layers = vgg16(weights=None, init_weights=False).features[:-1]
        self.layers.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(SEED)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(in_colour(images)).mean((2, 3))


class InceptionFeatures(nn.Module):
    """The 2048 features of torch-fidelity's InceptionV3, those of published FIDs; images become 8 bits and 299 px.

    Raises:
        UserError: its weights are not there and cannot be downloaded.
    """

    def __init__(self) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
        from torchmetrics.image.fid import NoTrainInceptionV3

        super().__init__()

        def build() -> nn.Module:
            torch.hub.load_state_dict_from_url(URL_INCEPTION_V3, check_hash=True, weights_only=True)
            return NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"])

        self.network = with_weights(build, "features=inception", URL_INCEPTION_V3, "set features=random")

    def forward(self, images: Tensor) -> Tensor:
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return self.network(pixels.expand(-1, 3, -1, -1))


class PerceptualDistance(nn.Module):
    """LPIPS (Zhang et al. 2018) of images and reconstructions in [-1, 1], by AlexNet: (B,), 0 = equal.

    Raises:
        UserError: the weights of AlexNet are not there and cannot be downloaded.
    """

    def __init__(self) -> None:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
        from torchvision.models import AlexNet_Weights

        super().__init__()
        url = AlexNet_Weights.DEFAULT.url
        with seeded_apart(SEED):  # it draws weights, and then loads others
            metric = with_weights(
                lambda: LearnedPerceptualImagePatchSimilarity(net_type="alex"),
                "metrics=[lpips]",
                url,
                "leave lpips out",
            )
        self.network = metric.net

    def forward(self, images: Tensor, reconstructions: Tensor) -> Tensor:
        return self.network(in_colour(images), in_colour(reconstructions)).flatten()


def make_extractor(
    features: str | None, own: Callable[[], nn.Module] | None, *, channels: int, device: torch.device | str, seed: int
) -> Extractor:
    """What `features` names, on a device and ready to be evaluated.

    Args:
        features: random, inception, or the name of `own`; null = random for grey images, inception for colour.
        own: builds a user's own network, whose draws follow from `seed`; None = it is not one.

    Raises:
        UserError: a package or file is missing, or a user's own is no torch.nn.Module.
    """
    name = features or ("random" if channels == 1 else "inception")
    if own is None and name == "inception":
        check_packages("features=inception (null takes it for colour)", ("torchmetrics", "torch_fidelity"))
    with seeded_apart(seed):
        network = own() if own else RandomFeatures() if name == "random" else InceptionFeatures()
    if not isinstance(network, nn.Module):
        raise UserError(f"features={name} must be a torch.nn.Module, got {type(network).__name__}")
    network = network.to(device).to(memory_format=torch.channels_last).requires_grad_(False)
    return Extractor(name, network, is_own=own is not None)


def in_colour(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) of 32 px or more, channels last: grey is repeated, smaller ones are enlarged (bilinear)."""
    if min(images.shape[-2:]) < SMALLEST_SIDE:
        images = interpolate(images, size=(SMALLEST_SIDE, SMALLEST_SIDE), mode="bilinear", align_corners=False)
    return images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def check_packages(what: str, modules: Iterable[str]) -> None:
    """Raises UserError where what is measured with is not installed."""
    if missing := [PACKAGES[module] for module in modules if find_spec(module) is None]:
        raise UserError(f"{what} needs {' and '.join(missing)}: {INSTALL}")


def with_weights(build: Callable[[], Built], what: str, url: str, otherwise: str) -> Built:
    """What `build` gives, which loads the file of this address, or downloads it into torch's folder for such files.

    Raises:
        UserError: it can be neither read nor downloaded.
    """
    from advvae.data.download import impatient, reason

    path = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(url))
    with first_ahead():  # of several processes, one downloads
        was_there = path.exists()
        try:
            with impatient():
                return build()
        except Exception as error:  # servers, disks and damaged files fail in many ways
            if was_there:
                told = f"cannot read {path} ({reason(error)}): remove it, and it is downloaded again"
            else:
                told = f"{path.name} could not be downloaded ({reason(error)}): get {url} and save it as {path}"
            raise UserError(f"{what}: {told}, or {otherwise}") from error
