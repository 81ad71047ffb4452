"""The networks of an adversarial variational autoencoder."""

from advvae.models.adversarial_vae import AdversarialVAE
from advvae.models.conv import conv_networks
from advvae.models.resnet import resnet_networks

__all__ = ["AdversarialVAE", "conv_networks", "resnet_networks"]
