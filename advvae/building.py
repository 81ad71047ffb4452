"""From a config to the objects that it names: sources, networks, losses, scores, the device."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from advvae.config import DATASET_KEYS, Config
from advvae.errors import UserError
from advvae.memory import is_shortage
from advvae.targets import calls

if TYPE_CHECKING:
    import torch

    from advvae.checkpoint import Checkpoint
    from advvae.losses import Objective
    from advvae.models import AdversarialVAE


def trained_networks(
    config: Config, checkpoint: "Checkpoint | None", discriminator: "Checkpoint | None", device: "torch.device"
) -> "AdversarialVAE":
    """The networks with the weights that were loaded; a part that no file has is None."""
    import torch

    from advvae.models import AdversarialVAE

    networks = AdversarialVAE(None, None, None, 0)
    if checkpoint:
        networks = build_networks(config)
        for part in ("encoder", "decoder", "discriminator"):
            if part not in checkpoint.parts:
                setattr(networks, part, None)
        checkpoint.restore(networks)
    if discriminator:
        shapes = discriminator.config
        own = {name: shapes[name] for name in ("hidden_dims", "model") if name in shapes}
        networks.discriminator = build_networks(replace(config, **own, train_discriminator=True)).discriminator
        discriminator.restore(networks, parts=("discriminator",))
    return networks.to(device).to(memory_format=torch.channels_last)


def build_networks(config: Config) -> "AdversarialVAE":
    """The networks that `model` names, with fresh weights drawn from the seed."""
    networks = build(
        "model",
        config.model,
        channels=config.dataset["channels"],
        size=config.side,
        latent_dim=config.latent_dim,
        hidden_dims=config.hidden_dims,
    )
    if not config.train_discriminator:
        networks.discriminator = None
    return networks


def build_objective(config: Config) -> "Objective":
    """What the networks are trained for."""
    from advvae.losses import ADVERSARIAL, Objective

    return Objective(
        build("loss", config.loss),
        config.kld_weight_of_mean,
        config.recon_weight,
        config.gen_weight,
        feature_weight=config.feature_weight,
        free_bits=config.free_bits,
        adversarial=ADVERSARIAL[config.adversarial],
        gradient_penalty=config.penalty,
        augment=tuple(config.augment),
        adaptive_weight=config.adaptive_weight,
    )


def build_source(group: str, node: dict[str, Any]) -> Any:
    """The source of images that a dataset names."""
    return build(group, {key: value for key, value in node.items() if key not in DATASET_KEYS})


def build(group: str, node: dict[str, Any], **arguments: Any) -> Any:
    """Call what `_target_` names, and nothing that its arguments name.

    Raises:
        UserError: there is no such thing, Hydra's blocklist has it, or it refuses its arguments.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if "_target_" not in node:
        raise UserError(f"{group}={node.get('name')} has no _target_: it names what to call, such as my_module.MyClass")
    own = {name: value for name, value in node.items() if name != "name"}
    if calling := [name for name, value in own.items() if calls(value)]:
        raise UserError(f"{group}.{calling[0]} holds a _target_ or ${{…}}: only {node['_target_']} itself is called")
    try:
        return instantiate(own, **arguments, _convert_="all", _recursive_=False)
    except (InstantiationException, TypeError) as error:  # the second for flags such as _partial_
        if isinstance(error.__cause__, UserError) or is_shortage(error.__cause__):
            raise error.__cause__ from None
        cause = error.__cause__ or error
        raise UserError(f"{group}: cannot build {node.get('_target_')}: {' '.join(str(cause).split())[:300]}") from None


def select_device(name: str) -> "torch.device":
    """The device that `device` names; auto = a GPU where there is one, else the CPU. Each rank has a GPU of its own.

    Raises:
        UserError: it is not there.
    """
    import torch

    from advvae.distributed import local_rank

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name, local_rank()) if name == "cuda" else torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name} is not available here ({reason}): use device=cpu or device=auto") from None
    return device
