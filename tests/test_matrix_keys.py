"""Which keys mode=matrix compares when it looks for a finished run."""

from advvae.config import FLAT_KEYS
from advvae.matrix import COMPARED, TYPED_OF_TRAINING

OF_NO_TRAINING = {  # what does not shape a trained network
    *("sample_and_save_frequency", "keep_checkpoints", "checkpoint_every_minutes", "on_nan", "resume", "then"),
    *("checkpoint", "discriminator_checkpoint", "num_samples", "sampler", "truncation", "save_npz", "metrics"),
    *("features", "scores", "fuse", "baselines", "out_datasets", "near", "far", "alpha", "input", "maps", "datasets"),
    *("objective", "allow_outlier_selection", "data_dir", "num_workers", "device", "n_devices", "compile"),
    *("no_wandb", "output_dir"),
}


def test_every_key_either_shapes_a_network_and_is_compared_or_does_not() -> None:
    compared = {*COMPARED, *TYPED_OF_TRAINING} & FLAT_KEYS.keys()
    assert compared | OF_NO_TRAINING == set(FLAT_KEYS)
    assert not compared & OF_NO_TRAINING
