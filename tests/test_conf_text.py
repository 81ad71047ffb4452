"""What the files in conf/ say of each choice, which --help, mode=list and the reference show."""

import pytest
import yaml

from advvae.conf_text import default_options, first_comment, flat_defaults, group_keys, option_files
from advvae.config import CONF, DATASET_KEYS, FLAT_KEYS, GROUPS


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_says_what_it_is_in_a_whole_sentence(group: str) -> None:
    for file in option_files(group):
        about = first_comment(file.read_text(encoding="utf-8"))
        assert about, file
        assert not about.endswith((",", ":", " and", " the", " of")), file


def test_a_sentence_may_go_over_several_lines_and_others_are_left_out() -> None:
    assert first_comment("# @package _global_\n# One that\n# goes on, 2.5 px. Another.\na: 1\n# of a key\n") == (
        "One that goes on, 2.5 px"
    )
    assert first_comment("a: 1 # of a key\n# later\n") == ""


def test_every_group_and_flat_key_has_its_default() -> None:
    assert set(default_options()) == set(GROUPS)
    assert default_options()["model"] == "conv"
    assert default_options()["experiment"] is None
    assert set(flat_defaults()) == set(FLAT_KEYS)
    assert flat_defaults()["data_dir"] == "data"
    assert flat_defaults()["then"] == "[]"


def test_keys_of_groups_are_those_of_all_options_then_those_of_single_ones() -> None:
    keys = {(key.name, key.options): key for key in group_keys()}
    shared = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["dataset"]
    assert {f"dataset.{name}" for name in shared} <= {name for name, options in keys if options == ()}
    assert keys["dataset.root", ("folder",)].default == "null"
    assert keys["dataset.path", ("array",)].meaning.startswith(".npy, or .npz")
    assert keys["model.norm", ("conv",)].default == "batch"
    assert keys["model.norm", ("resnet",)].default == "none"
    assert keys["model.spectral_norm", ("conv", "resnet")].default == "false"
    assert keys["tracker.project", ("wandb",)].default == "advvae"
    assert not {name for name, _ in keys} & {f"dataset.{name}" for name in ("name", "size", "flag")}
    assert set(shared) <= set(DATASET_KEYS)
