"""What Hydra keeps once for a process, lent to advvae for a moment: the caller may be a program of Hydra's too."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import DictConfig

one_at_a_time = threading.RLock()  # who has it may change what is global


@contextmanager
def uninitialized() -> Iterator[None]:
    """In here, Hydra is not initialized; afterwards, as it was before."""
    hydra, version = GlobalHydra.instance(), VersionBase.instance()
    before, base, name = hydra.hydra, version.version_base, JobRuntime.instance().get("name")
    hydra.clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before  # another instance by now
        version.version_base = base
        JobRuntime.instance().set("name", name)


@contextmanager
def job_of(config: DictConfig) -> Iterator[None]:
    """In here, HydraConfig is that of a config composed with its node `hydra`, as in a job of Hydra's."""
    with one_at_a_time:
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        with one_at_a_time:
            HydraConfig.instance().cfg = before
