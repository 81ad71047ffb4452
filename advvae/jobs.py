"""A run under way: its folder, and the networks and data that its config names, each made when first asked for."""

import json
import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advvae.building import build, build_objective, build_source, select_device, trained_networks
from advvae.config import SAMPLE_METRICS, Config
from advvae.data.source import Form, is_private
from advvae.provenance import record_split, record_start
from advvae.resuming import tell_changes
from advvae.runs import Run
from advvae.settle import Settled
from advvae.shift_names import shift_names

if TYPE_CHECKING:
    import torch

    from advvae.checkpoint import Checkpoint
    from advvae.data import Split
    from advvae.features import Extractor
    from advvae.losses import Objective
    from advvae.models import AdversarialVAE
    from advvae.outlier.scores import Score
    from advvae.tracking import Tracker

logger = logging.getLogger(__name__)


@dataclass
class Job:
    """A run under way: what was settled, and the folder that it fills."""

    config: Config
    run: Run
    checkpoint: "Checkpoint | None"
    discriminator: "Checkpoint | None"
    resources: ExitStack  # closes what the job opens, however it ends
    typed: frozenset[str] = frozenset()  # the keys and groups that were named on the command line
    shared_folder: Path | None = None  # the run's, of a rank that writes elsewhere; None = `folder`
    _splits: "dict[tuple[str, str], Split]" = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.run.folder

    @cached_property
    def device(self) -> "torch.device":
        return select_device(self.config.device)

    @cached_property
    def objective(self) -> "Objective":
        return build_objective(self.config)

    @cached_property
    def source(self) -> Any:
        return build_source("dataset", self.config.dataset)

    @cached_property
    def tracker(self) -> "Tracker":
        """Opened when first used: by then all of the config is decided."""
        from advvae.tracking import open_tracker

        config, training = self.config, self.checkpoint.training if self.checkpoint else None
        tracker = open_tracker(
            config.tracker,
            folder=self.folder,
            config=vars(config),
            run_name=f"{config.mode}-{config.dataset['name']}-{self.folder.name}",
            private=self.is_private,
            run_id=training.tracker_run_id if training and config.mode == "train" else None,
        )
        return self.resources.enter_context(tracker)

    @property
    def is_private(self) -> bool:
        """Whether any image that this job looks at may be a patient's."""
        config = self.config
        nodes = [config.dataset, config.out_dataset, *config.nodes.values()]
        used = {config.dataset["name"], *config.datasets, *(config.outlier_sets if "outlier" in config.modes else ())}
        sources = [build_source(node["name"], node) for node in nodes if node["name"] in used]
        return config.mode == "screen" or any(map(is_private, sources))

    def split(self, name: str) -> "Split":
        """A split of the dataset as the networks see it: whole images, or crops of them."""
        return replace(self.whole_split(name), crop=self.config.crop)

    def whole_split(self, name: str) -> "Split":
        """A split of the dataset."""
        return self._loaded(self.config.dataset, name)

    def outliers(self) -> "list[Split]":
        """The outlier sets' test splits, brought to the networks' size and channels."""
        from advvae.data.shifts import shifted

        config = self.config
        return [
            shifted(self.whole_split("test"), name, config.seed)
            if shift_names(name)
            else self._loaded(config.nodes.get(name, config.out_dataset), "test")
            for name in config.outlier_sets
        ]

    def scores(self) -> "dict[str, Score]":
        """The outlier scores that the config names, those that `fused` needs, and the baselines."""
        from advvae.outlier.scores import BASELINES, FUSED, named_scores

        config = self.config
        own = [item for item in config.scores if not isinstance(item, str)]
        names = [item for item in config.scores if isinstance(item, str)]
        names += [*(config.fuse if FUSED in names else ()), *(BASELINES if config.baselines else ())]
        return named_scores([*dict.fromkeys(names), *(build("scores", item) for item in own)])

    def extractor(self) -> "Extractor | None":
        """What the metrics of samples compare images in; None = `metrics` asks for none of these.

        Raises:
            UserError: what the metrics need is not installed, or cannot be downloaded.
        """
        from advvae.features import check_packages, make_extractor

        config = self.config
        if by_torchmetrics := [name for name in config.metrics if name in ("lpips", "fid", "kid")]:
            check_packages(f"metrics=[{','.join(by_torchmetrics)}]", ("torchmetrics",))
        if not set(config.metrics) & set(SAMPLE_METRICS):
            return None
        features, own = config.features, None
        if isinstance(features, dict):
            own, features = partial(build, "features", features), features["_target_"]
        channels = config.dataset["channels"]
        return make_extractor(features, own, channels=channels, device=self.device, seed=config.seed)

    @property
    def n_samples(self) -> int:
        """How many samples are measured: as many as test images, or num_samples where that is typed, if it is less."""
        from advvae.distributed import from_first

        n_images = len(self.split("test"))
        typed = (
            any(override.startswith("num_samples=") for override in self.run.overrides) or "num_samples" in self.typed
        )
        return from_first(min(self.config.num_samples, n_images) if typed else n_images)

    @property
    def detector_file(self) -> Path:
        """Where what the scores learnt is kept: in the folder of the run whose weights are scored."""
        run, stem = self._weights
        return run / ("detector.pt" if stem == "best" else f"detector-{stem}.pt")

    @property
    def sampler_file(self) -> Path:
        """Where the mixture that sampler=gmm draws from is kept: in the folder of the run whose weights decode."""
        run, stem = self._weights
        return run / f"sampler-{stem}.pt"

    @property
    def weights_folder(self) -> Path:
        """The folder of the run whose weights were loaded."""
        return self._weights[0]

    @property
    def is_of_export(self) -> bool:
        """Whether the weights are an exported model's, which stays as it was published."""
        loaded = self.checkpoint or self.discriminator
        return loaded is not None and loaded.path.suffix == ".safetensors"

    @property
    def _weights(self) -> tuple[Path, str]:
        """The folder of the run whose weights were loaded, and what their file is called there."""
        loaded = self.checkpoint or self.discriminator
        assert loaded is not None
        folder = loaded.path.parent
        return folder.parent if folder.name == "checkpoints" else folder, loaded.path.stem

    @property
    def fit_seed(self) -> int:
        """What scores are fitted with: the loaded run's seed, so that its detector stays the same for every command."""
        loaded = self.checkpoint or self.discriminator
        return loaded.config.get("seed", self.config.seed) if loaded else self.config.seed

    def identity(self) -> dict[str, str]:
        """All that a fitted score depends on, beside its own settings; published sets do not change, others may."""
        from advvae.data.store import normals_digest
        from advvae.outlier.detector_file import ABSENT

        config = self.config
        values = {name: getattr(config, name) for name in ("size", "crop", "loss")}
        values["dataset"] = {name: value for name, value in config.dataset.items() if name != "licence"}
        values["seed"] = self.fit_seed
        weights = {name: getattr(config, name) for name in ("kld_weight", "recon_weight", "kld_unit", "adversarial")}
        identity = checksums(self) | {name: json.dumps(value) for name, value in (values | weights).items()}
        if is_private(self.source):
            data_dir = Path(config.data_dir).expanduser()
            digest = None if self.lacks_images else normals_digest(self.source, config.dataset["name"], data_dir)
            identity["images"] = digest or ABSENT
        return identity

    @property
    def lacks_images(self) -> bool:
        """Whether the model was exported without saying where its images are, and nothing typed says where they are."""
        is_exported = self.checkpoint is not None and self.checkpoint.path.suffix == ".safetensors"
        return is_exported and not any(key.startswith("dataset.") for key in self.typed)

    def trained_networks(self) -> "AdversarialVAE":
        """The networks with the weights that were loaded."""
        return trained_networks(self.config, self.checkpoint, self.discriminator, self.device)

    def _loaded(self, node: dict[str, Any], split: str) -> "Split":
        key = json.dumps(node), split
        if key not in self._splits:
            self._splits[key] = self._load(node, split)
            record_split(self.folder, self._splits[key])
        return self._splits[key]

    def _load(self, node: dict[str, Any], split: str) -> "Split":
        from advvae.data import load_split
        from advvae.distributed import first_ahead, n_local_ranks

        source = self.source if node is self.config.dataset else build_source(node["name"], node)
        form = self.form(node, source)
        n_cores = n_local_ranks() if n_local_ranks() > 1 else 0  # of ranks that wait while rank 0 prepares
        with first_ahead():
            return load_split(
                source,
                split,
                name=node["name"],
                size=form.size,
                channels=form.channels,
                window=form.window,
                resize=form.resize,
                data_dir=Path(self.config.data_dir),
                keep_classes=node["keep_classes"],
                drop_classes=node["drop_classes"],
                num_workers=max(self.config.num_workers, n_cores),
                max_unreadable=node["max_unreadable"],
            )

    def form(self, node: dict[str, Any], source: Any) -> Form:
        """What the images of a dataset are brought to: what it says itself, else as the training images were.

        Their window is in the unit of the user's own files, which a published set does not share.
        """
        config, own = self.config, self.config.dataset
        assert config.size is not None
        is_foreign = is_private(self.source) and not is_private(source)
        window = node["window"] or (None if is_foreign else own["window"])
        resize = node["resize"] or own["resize"] or "crop"
        return Form(config.size, own["channels"], None if window is None else (window[0], window[1]), resize)


def open_job(settled: Settled, run: Run, resources: ExitStack) -> Job:
    """Prepare a run: what was taken is said and written, seeds are set."""
    import torch

    from advvae.memory import keep_freed_memory
    from advvae.random_state import seed_all

    keep_freed_memory()
    config = settled.config
    job = Job(config, run, settled.checkpoint, settled.discriminator, resources, settled.typed)
    select_device(config.device)  # a device that is not there is told before any work
    run.add_overrides(settled.taken())
    for role, loaded in (("checkpoint", settled.checkpoint), ("discriminator", settled.discriminator)):
        if loaded:
            after = f", {loaded.training.place}" if loaded.training else ""
            logger.info(f"{role}: {loaded.path}{after}")
    if settled.checkpoint and config.mode == "train":
        tell_changes(config, settled.checkpoint)
    run.begin()
    record_start(job.folder)
    run.write_config(config, checksums(settled))
    seed_all(config.seed)
    if config.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS is deterministic with a fixed workspace only
    if config.deterministic != torch.are_deterministic_algorithms_enabled():  # to say it imports a compiler: a second
        torch.use_deterministic_algorithms(config.deterministic)
    return job


def checksums(job: Settled | Job) -> dict[str, str]:
    """SHA-256 of the files that were loaded."""
    from advvae.checkpoint import sha256

    loaded = {"checkpoint_sha256": job.checkpoint, "discriminator_checkpoint_sha256": job.discriminator}
    return {name: sha256(file.path) for name, file in loaded.items() if file}
