"""From overrides to a checked ``RunConfig``, and back to plain data for records and children."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config import schema
from harness.config.explain import no_key, one_line, unknown_key
from harness.config.schema import RunConfig
from harness.errors import UsageError
from harness.paths import conf_dir


def compose_run(overrides: Sequence[str]) -> RunConfig:
    """The configuration of a command line, without running Hydra's application.

    Raises ``UsageError`` with Hydra's own explanation for an unknown group, choice or key.
    """
    schema.register()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return from_node(compose("config", overrides=list(overrides)))
    except (HydraException, ValueError) as error:  # the latter for a choice that is a number
        raise UsageError(one_line(error)) from error


def from_node(node: DictConfig) -> RunConfig:
    """Type-checked values of a composed configuration. Raises ``UsageError`` naming the key."""
    if (unknown := unknown_key(node)) is not None:
        raise UsageError(no_key(unknown))
    try:
        config = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise UsageError(one_line(error)) from error
    if not isinstance(config, RunConfig):
        raise UsageError("conf/config.yaml must list `schema` first in its defaults")
    if config.dataset.manifest is not None:
        # The user's recordings replace the set that the defaults name.
        return replace(config, dataset=replace(config.dataset, name=None))
    return config


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """The inverse of ``to_dict``."""
    return from_node(OmegaConf.merge(schema.writable_schema(), OmegaConf.create(dict(values))))  # type: ignore[arg-type]


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain JSON types, with every key spelled out."""
    return dataclasses.asdict(config)
