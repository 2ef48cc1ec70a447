"""What --help says about a job's settings: their names, types, values and meaning, read from the dataclasses."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, TypeGuard, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf


@dataclass(frozen=True)
class Group:
    """A folder of `configs/`: the option that was chosen and all that can be."""

    chosen: str | None
    options: list[str]


@dataclass(frozen=True)
class Row:
    """One key of a job: dotted name, type, value, and what its dataclass says about it."""

    key: str
    type: str
    value: str
    help: str


def rows(node: DictConfig, prefix: str = "") -> list[Row]:
    """A row for every key of composed settings, in the order of the dataclasses."""
    schema = OmegaConf.get_type(node)
    hints: dict[str, Any] = {}
    helps: dict[str, str] = {}
    if isinstance(schema, type) and is_dataclass(schema):
        hints, helps = get_type_hints(schema), field_help(schema)
    found = []
    for key in node:
        name, missing = str(key), OmegaConf.is_missing(node, key)
        child = node._get_node(key)
        if not missing and _is_section(child):
            found += rows(child, f"{prefix}{name}.")
        else:
            value = "(required)" if missing else _shown(child)
            kind = type_name(hints[name]) if name in hints else ""
            found.append(Row(f"{prefix}{name}", kind, value, helps.get(name, "")))
    return found


def _is_section(child: object) -> TypeGuard[DictConfig]:
    """Whether a value has keys of its own: a dataclass's, or those of named dataclasses; not a free dictionary's."""
    if not isinstance(child, DictConfig) or child._is_none() or child._is_interpolation():
        return False
    return OmegaConf.get_type(child) is not dict or holds_dataclasses(child)


def holds_dataclasses(node: DictConfig) -> bool:
    """Whether a node is a ``dict[str, SomeDataclass]`` with something in it."""
    return OmegaConf.get_type(node) is dict and len(node) > 0 and is_dataclass(node._metadata.element_type)


def _shown(child: Any) -> str:
    if isinstance(child, DictConfig | ListConfig):
        return str(OmegaConf.to_container(child, resolve=False, enum_to_str=True))
    raw = child._value()
    if raw is None or isinstance(raw, bool):
        return {None: "null", True: "true", False: "false"}[raw]
    return raw.name if isinstance(raw, Enum) else str(raw) or '""'


def type_name(kind: Any) -> str:
    """A type as a user would write it: `int`, `list[int]`, `float or null`, `l1|l2` for an enum."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(member.name for member in kind)
    args = getattr(kind, "__args__", ())
    if type(None) in args:
        return " or ".join([type_name(arg) for arg in args if arg is not type(None)] + ["null"])
    if args or not isinstance(kind, type):
        return str(kind).replace("typing.", "")
    return kind.__name__


def field_help(schema: type) -> dict[str, str]:
    """What a dataclass says about its fields: `metadata["help"]`, else the comment beside or above the field."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if is_dataclass(base):
            found.update(_comments(base))
    for item in fields(schema):
        if "help" in item.metadata:
            found[item.name] = str(item.metadata["help"])
    return found


def _comments(schema: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(schema))
    except (OSError, TypeError):
        return {}  # made at run time: there is no text to read
    lines = source.splitlines()
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = start = node.lineno - 1
            while lines[first - 1].strip().startswith("#"):
                first -= 1
            beside = lines[(node.end_lineno or 1) - 1].encode()[node.end_col_offset or 0 :].decode().strip()
            comment = [beside] if beside.startswith("#") else lines[first:start]
            found[node.target.id] = " ".join(line.strip().lstrip("#: ") for line in comment)
    return found


def table(lines: Sequence[Sequence[str]], width: int, indent: str = "  ") -> str:
    """Columns aligned; the last one is wrapped to what the others leave of `width`."""
    sizes = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    left = len(indent) + sum(sizes) + 2 * len(sizes)
    # In a narrow terminal a long last column would be a ribbon: give it its own indented lines instead.
    ribbon = width - left < 24
    text = []
    for line in lines:
        start = indent + "".join(cell.ljust(size + 2) for cell, size in zip(line, sizes, strict=False))
        if ribbon:
            text.append(start.rstrip())
            text += textwrap.wrap(line[-1], width, initial_indent=indent * 3, subsequent_indent=indent * 3)
        else:
            wrapped = textwrap.wrap(line[-1], width - left) or [""]
            text += [(start + wrapped[0]).rstrip(), *(" " * left + part for part in wrapped[1:])]
    return "\n".join(text)


def job_help(job: str, about: str, config: DictConfig, groups: Mapping[str, Group], width: int) -> str:
    """The help of a job: its module's docstring, a table of its settings, and the groups with their options."""
    parts = [inspect.cleandoc(about), f"usage: worldmodel {job} [--help | --cfg] [key=value ...]"]
    if groups:
        lines = [(f"{name}={group.chosen}", " | ".join(group.options)) for name, group in groups.items()]
        parts.append("Groups, the option that is used, and the others:\n\n" + table(lines, width))
    keys = [(f"{row.key}={row.value}", row.type, row.help) for row in rows(config)]
    if keys:
        parts.append("Settings, with the values they have now:\n\n" + table(keys, width))
    return "\n\n".join(parts)
