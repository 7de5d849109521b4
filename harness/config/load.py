"""From overrides to a checked ``RunConfig``, and back to plain data for records and children."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config import options
from harness.config.explain import one_line
from harness.config.schema import RunConfig
from harness.errors import UsageError
from harness.paths import conf_dir, datasets_dir
from harness.protocols.options import convert, plain
from variants import registry


def register() -> None:
    """Offer Hydra what no file states: the schema's defaults, each choice's options with theirs, and
    every audio set's specification as a ``dataset`` choice."""
    store = ConfigStore.instance()
    store.store(name="schema", node=plain(RunConfig()))
    for (axis, leaf), values in options.defaults().items():
        store.store(name=f"{axis}_options_{leaf}", node=values)
    chosen = [f"{axis}_options_${{{axis}}}@{registry.place(axis)}" for axis in options.AXES]
    store.store(name="options", node={"defaults": chosen})
    for path in sorted(datasets_dir().glob("*.yaml")):
        store.store(group="dataset", name=path.stem, node={"name": path.stem})


def compose_run(overrides: Sequence[str]) -> RunConfig:
    """The configuration of a command line, without running Hydra's application.

    Raises ``UsageError`` with Hydra's own explanation for an unknown group, choice or key.
    """
    register()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return from_node(compose("config", overrides=list(overrides)))
    except (HydraException, ValueError) as error:  # the latter for a choice that is a number
        raise UsageError(one_line(error)) from error


def from_node(node: DictConfig) -> RunConfig:
    """Checked values of a composed configuration. Raises ``UsageError`` naming the key."""
    try:
        values = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(one_line(error)) from error
    config = from_dict(values)  # type: ignore[arg-type]
    if config.target.is_foreign:  # none of the variant's parts is what runs there
        config = replace(config, variant=config.target.name)
    if config.dataset.manifest is not None:
        # The user's recordings replace the set that the defaults name.
        return replace(config, dataset=replace(config.dataset, name=None))
    return config


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """The inverse of ``to_dict``."""
    return options.checked(convert(RunConfig, values))


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain JSON types, with every key spelled out."""
    return asdict(config)
