"""What samples are compared in: the same everywhere, drawn without a trace, and one line where a file is missing."""

import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from advvae.errors import UserError
from advvae.features import InceptionFeatures, PerceptualDistance, RandomFeatures, in_colour, make_extractor
from advvae.models.evaluation import evaluation

ALEXNET = "alexnet-owt-7be5be79.pth"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"


def images_of(n: int, channels: int = 1, side: int = 32) -> Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for downloaded weights, on a machine without network."""

    def unreachable(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_random_features_are_the_same_for_every_state_of_the_generator_and_leave_it() -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        network = RandomFeatures()
        assert torch.equal(torch.get_rng_state(), before)
        found.append(network(images_of(3)))
    assert found[0].shape == (3, 512)
    assert torch.equal(*found)
    assert (found[0].std(0) > 0).float().mean() > 0.9  # most features tell these images apart, and few are dead


def test_random_features_are_those_of_the_convolutions_of_vgg16() -> None:
    """Thirteen of 3 px, in five blocks with pools between them: at 64 px, the last block's map has 4 px."""
    network = RandomFeatures()
    widths = [layer.out_channels for layer in network.layers if isinstance(layer, nn.Conv2d)]
    assert widths == [64, 64, 128, 128, *[256] * 3, *[512] * 6]
    maps = network.layers(in_colour(images_of(2, side=64)))
    assert maps.shape == (2, 512, 4, 4)
    torch.testing.assert_close(network(images_of(2, side=64)), maps.sum((2, 3)) / 16)
    for layer in network.layers:
        if isinstance(layer, nn.Conv2d):  # drawn from N(0, 2 / inputs of a unit)
            expected = (2 / (layer.in_channels * 9)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)


def test_random_features_do_not_depend_on_the_batch() -> None:
    network, images = RandomFeatures(), images_of(5)
    with evaluation(network, "cpu"):
        alone = torch.cat([network(image[None]) for image in images])
        torch.testing.assert_close(network(images), alone, rtol=1e-4, atol=1e-5)


def test_small_grey_images_are_enlarged_to_32_px_and_repeated() -> None:
    halves = torch.tensor([-1.0, 1.0]).expand(1, 1, 16, 2).repeat_interleave(8, dim=3)  # black, then white: 16 x 16
    enlarged = in_colour(halves)
    assert enlarged.shape == (1, 3, 32, 32)
    assert (enlarged[..., :15] == -1).all()
    assert (enlarged[..., 17:] == 1).all()
    assert torch.equal(in_colour(images_of(2, 3, 40)), images_of(2, 3, 40))


def test_features_null_is_random_for_grey_and_inception_for_colour(hub: Path) -> None:
    plain: dict[str, Any] = {"device": "cpu", "seed": 0}
    assert make_extractor(None, None, channels=1, **plain).name == "random"
    with pytest.raises(UserError, match="features=inception"):
        make_extractor(None, None, channels=3, **plain)


def test_without_network_inception_says_what_to_get_and_where_to_put_it(hub: Path) -> None:
    with pytest.raises(UserError) as told:
        InceptionFeatures()
    message = str(told.value)
    address = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
    assert f"get {address} and save it as {hub / INCEPTION}, or set features=random" in message
    assert "Name or service not known" in message
    assert len(message.splitlines()) == 1


def test_without_network_lpips_says_so_too(hub: Path) -> None:
    with pytest.raises(UserError) as told:
        PerceptualDistance()
    message = str(told.value)
    assert message.startswith("metrics=[lpips]: ")
    assert f"get https://download.pytorch.org/models/{ALEXNET} and save it as {hub / ALEXNET}, or leave" in message


def test_weights_that_are_damaged_are_named(hub: Path) -> None:
    (hub / INCEPTION).write_bytes(b"half a file")
    with pytest.raises(UserError, match=f"cannot read {hub / INCEPTION} .*: remove it"):
        InceptionFeatures()


@pytest.mark.parametrize("package", ["torchmetrics", "torch_fidelity"])
def test_a_package_that_is_missing_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=package.replace("_", "-") + r": pip install 'advvae\[metrics\]'"):
        make_extractor("inception", None, channels=3, device="cpu", seed=0)


def test_inception_gives_2048_features_of_images_rounded_to_8_bits(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights drawn at random, in a file of the published one's form."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save({}, hub / INCEPTION)
    with monkeypatch.context() as without_weights:
        without_weights.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        drawn = FeatureExtractorInceptionV3("drawn", ["2048"])
    torch.save(drawn.state_dict(), hub / INCEPTION)
    network = InceptionFeatures()
    grey = images_of(1).mul(127.5).round().div(127.5)  # 0 and 255 and 8 bits between
    with evaluation(network, "cpu"):
        features = network(torch.cat([grey, grey + 0.4 / 127.5]))
        assert features.shape == (2, 2048)
        pixels = (grey.repeat(1, 3, 1, 1) * 127.5 + 127.5).round().byte()
        torch.testing.assert_close(features[:1], network.network(pixels), rtol=1e-4, atol=1e-5)


def test_lpips_of_equal_images_is_0_and_grows_with_what_differs(hub: Path) -> None:
    """With AlexNet's convolutions drawn at random, in a file of the published one's form."""
    from torchvision.models import alexnet

    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in alexnet(weights=None).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}  # takes no room in the file
    for name, shape in shapes.items():
        if name.startswith("features") and name.endswith("weight"):
            drawn[name] = torch.randn(shape, generator=generator) / shape[1:].numel() ** 0.5
    torch.save(drawn, hub / ALEXNET)
    before = torch.get_rng_state()
    distance, images = PerceptualDistance().eval(), images_of(3, side=28)
    assert torch.equal(torch.get_rng_state(), before)
    noise = torch.tensor([0.0, 0.1, 0.5]).reshape(3, 1, 1, 1) * images_of(6, side=28)[3:]
    with torch.no_grad():
        found = distance(images, images + noise)
    assert found.shape == (3,)
    assert found[0] == 0
    assert 0 < found[1] < found[2]


class Own(nn.Module):
    """What a user may write: the mean of each channel, or something that is no feature."""

    def __init__(self, is_flat: bool = True) -> None:
        super().__init__()
        self.is_flat = is_flat
        self.drawn = torch.rand(1)

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if self.is_flat else images


def test_a_module_of_ones_own_draws_from_the_seed_and_must_give_features() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (make_extractor("my.Own", Own, channels=1, device="cpu", seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.network.drawn == second.network.drawn == torch.rand(1, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(first(images_of(4)), images_of(4).mean((2, 3)))
    wrong = make_extractor("my.Own", lambda: Own(is_flat=False), channels=1, device="cpu", seed=0)
    with pytest.raises(UserError, match=r"features=my.Own gives \(4, 1, 32, 32\) for 4 images: it must give \(B, F\)"):
        wrong(images_of(4))
    with pytest.raises(UserError, match=r"features=dict must be a torch\.nn\.Module, got dict"):
        make_extractor("dict", dict, channels=1, device="cpu", seed=0)  # type: ignore[arg-type]
