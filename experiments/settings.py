"""Settings of a job: composed from YAML by Hydra and checked against the job's dataclass.

Hydra's own messages for a mistyped key or option run over several lines and do not say what was meant; here
every override is checked against the composed settings first, so that a mistake is one line with the nearest
right word.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from experiments.cli import UsageError
from experiments.describe import Group, holds_dataclasses, rows, type_name


@dataclass(frozen=True)
class Settings:
    """The settings of one run: `config` as Hydra composed it, and the groups that it was composed from."""

    schema: type
    config: DictConfig
    groups: dict[str, Group]

    def to_object(self) -> Any:
        """The settings as the job's dataclass.

        Raises:
            UsageError: a required key has no value.
            ValueError: a dataclass found its values inconsistent.
        """
        missing = sorted(OmegaConf.missing_keys(self.config))
        if missing:
            about = {row.key: row.help for row in rows(self.config)}
            needed = [f"{key} ({about[key]})" if about.get(key) else key for key in missing]
            raise UsageError(f"give a value to {', '.join(needed)}: {missing[0]}=...")
        try:
            config = OmegaConf.to_object(self.config)
        except OmegaConfBaseException as error:
            raise UsageError(_line(error)) from error
        if not isinstance(config, self.schema):
            raise TypeError("the defaults list must begin with the job's schema (<job>_schema)")
        return config

    def to_yaml(self) -> str:
        """The settings as YAML, references resolved; a required key without a value reads `???`."""
        try:
            return OmegaConf.to_yaml(self.config, resolve=True)
        except OmegaConfBaseException as error:
            raise UsageError(_line(error)) from error


def compose_settings(
    job: str,
    schema: type,
    overrides: Sequence[str],
    *,
    schemas: Mapping[str, type] | None = None,
    config_module: str = "configs",
) -> Settings:
    """Compose `<config_module>/<job>.yaml` with overrides as the command line gives them (`key=value`).

    Args:
        schemas: Further dataclasses for groups whose options differ in their keys: `{"planner/cem": CEMConfig}` is
            what `configs/planner/cem.yaml` names as `cem_schema` in its defaults list.

    Raises:
        UsageError: an unknown key, group or option, a value of the wrong type, or an override that cannot be read.
    """
    store = ConfigStore.instance()
    store.store(name=f"{job}_schema", node=schema)
    for place, node in (schemas or {}).items():
        group, _, name = place.rpartition("/")
        store.store(group=group, name=f"{name}_schema", node=node)

    parsed = [_parse(text) for text in overrides]
    with initialize_config_module(config_module, version_base="1.3"):
        try:
            groups = _groups(job, [])
            _check_options(parsed, groups)
            chosen = [item for item in parsed if _name(item) in groups]
            groups = _groups(job, _lines(chosen))
            # Values come second, so that keys are checked against the options that were really chosen.
            base = compose(job, _lines(chosen))
            _check_keys(parsed, groups, base)
            return Settings(schema, compose(job, _lines(parsed)), groups)
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(_explain(error, parsed, schema)) from error


def _parse(text: str) -> Override:
    if text.startswith("-"):
        bare = text.lstrip("-")
        example = bare if "=" in bare else f"{bare}=VALUE"
        raise UsageError(f"unknown option {text}; settings have no dashes: {example}")
    if "=" not in text and not text.startswith("~"):
        raise UsageError(f"cannot read {text!r}: settings are written key=value")
    try:
        override = OverridesParser.create().parse_overrides([text])[0]
    except HydraException as error:
        key, _, value = text.partition("=")
        if not value or value[0] in "[{'\"":
            raise UsageError(f"cannot read {text!r}: {_line(error)}") from error
        # Names of files hold spaces, brackets and what not: a value outside Hydra's grammar is taken as it stands.
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        try:
            override = OverridesParser.create().parse_overrides([f"{key}='{quoted}'"])[0]
        except HydraException:
            raise UsageError(f"cannot read {text!r}: {_line(error)}") from error
    if override.is_sweep_override():
        raise UsageError(
            f"{text!r} gives several values: run once for each, write a list as [a,b], "
            "or quote a value that has commas"
        )
    return override


def _lines(overrides: Iterable[Override]) -> list[str]:
    return [item.input_line for item in overrides if item.input_line is not None]


def _name(override: Override) -> str:
    return override.key_or_group + (f"@{override.package}" if override.package else "")


def _groups(job: str, overrides: list[str]) -> dict[str, Group]:
    """The groups in the job's defaults list; Hydra's own and the stored schemas are left out."""
    choices = compose(job, overrides, return_hydra_config=True).hydra.runtime.choices
    named = {name: chosen for name, chosen in choices.items() if not name.startswith("hydra/")}
    return {name: Group(chosen, _options(name.partition("@")[0])) for name, chosen in named.items()}


def _options(group: str) -> list[str]:
    options = GlobalHydra.instance().config_loader().get_group_options(group, ObjectType.CONFIG)
    return sorted(name for name in options if not name.endswith("_schema"))


def _check_options(overrides: Iterable[Override], groups: Mapping[str, Group]) -> None:
    for override in overrides:
        name, option = _name(override), override.value()
        if name in groups and isinstance(option, str) and not override.is_delete():
            options = groups[name].options
            if option not in options:
                raise UsageError(
                    f"{name}={option}: no such option{_did_you_mean(option, options)}; "
                    f"{name} is one of {', '.join(options)}"
                )


def _check_keys(overrides: Iterable[Override], groups: Mapping[str, Group], config: DictConfig) -> None:
    for override in overrides:
        name = _name(override)
        if name in groups or (override.is_add() and _options(override.key_or_group)):
            continue
        node: Any = config
        path: list[str] = []
        for part in name.split("."):
            if isinstance(node, ListConfig):
                break  # Hydra checks the index
            if not isinstance(node, DictConfig):
                raise UsageError(f"unknown key {name}: {'.'.join(path)} is a single value and has no keys")
            keys = [str(key) for key in node]
            free = OmegaConf.get_type(node) is dict  # `+` adds to it and `~` takes away
            if free and (override.is_add() or override.is_delete() or not holds_dataclasses(node)):
                break
            if override.is_delete() and len(path) == name.count("."):
                raise UsageError(f"cannot take {name} away: it is a setting of the job; give it a value")
            if part not in keys:
                everything = {*_leaves(config), *groups}
                where = f" in {'.'.join(path)}" if path else ""
                allowed = ", ".join(sorted({*keys, *groups} if not path else keys)) or "none"
                raise UsageError(
                    f"unknown key {name}{_did_you_mean(name, everything)}; allowed{where}: {allowed}"
                )
            path.append(part)
            node = None if OmegaConf.is_missing(node, part) else node[part]


def _leaves(node: Any, prefix: str = "") -> list[str]:
    """Dotted names of every key, those of inner nodes too."""
    names = []
    for key in node:
        name = f"{prefix}{key}"
        names.append(name)
        child = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            names += _leaves(child, f"{name}.")
    return names


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` where something is close: as written, or as the last part of a dotted name."""
    known = sorted(known)
    by_last: dict[str, list[str]] = {}
    for full in known:
        by_last.setdefault(full.rpartition(".")[2], []).append(full)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if not close:
        for last in difflib.get_close_matches(name.rpartition(".")[2], by_last, n=1, cutoff=0.75):
            close = by_last[last][:2]
    return f", did you mean {' or '.join(close)}?" if close else ""


def _explain(error: Exception, overrides: Sequence[Override], schema: type) -> str:
    """One line about an error of Hydra or OmegaConf; for a value of the wrong type, what the key expects."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    for override in overrides:
        if override.input_line is not None and override.input_line in str(error):
            expected = _expected(schema, _name(override).split("."))
            wrong_type = isinstance(cause, ValidationError) and expected
            return f"{override.input_line}: {f'expected {expected}' if wrong_type else _line(cause)}"
    key = getattr(cause, "full_key", None)
    return f"{key}: {_line(cause)}" if key else _line(cause)


def _line(error: BaseException) -> str:
    """An error's message as one line, without what OmegaConf adds for programmers."""
    noise = ("full_key:", "object_type=", "reference_type=", "See https://")
    parts = [part.strip() for part in str(error).splitlines()]
    return " ".join(part for part in parts if part and not part.startswith(noise)) or type(error).__name__


def _expected(schema: type, path: Sequence[str]) -> str | None:
    kind: Any = schema
    for part in path:
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
            continue
        if not (isinstance(kind, type) and is_dataclass(kind)):
            return None
        kind = get_type_hints(kind).get(part)
    return None if kind in (None, Any) else type_name(kind)
