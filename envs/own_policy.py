"""An exploring policy of the user's own: found by "module:ClassName" on the Python path, and checked as it acts.

Such a name is code. It comes from the user's command line or program, never from a data file.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np


class PolicyError(ValueError):
    """A policy cannot act: one of the user's own breaks the contract, or the world has not what a policy needs."""


class OwnPolicy:
    """The user's policy, whose actions are checked before anything is done with them.

    The class needs `reset(rng)` and `act(observation)`, as `envs.policies.ExploringPolicy` has them; an action (A,)
    stands for (1, A). Its constructor gets those of `low`, `high`, `block` and `world` that it names, and the options,
    all by name.

    Args:
        name: "module:ClassName", from a module that Python finds.
        given: `low`, `high` (A,), `block` and `world`.
        options: settings of the policy.

    Raises:
        PolicyError: there is no such class, it lacks a method, or does not take these options.
    """

    def __init__(self, name: str, given: Mapping[str, Any], options: Mapping[str, float]) -> None:
        found = _load(name)
        self.name, self.file = name, inspect.getsourcefile(found) or found.__module__
        self._low, self._high, self._block = given["low"], given["high"], given["block"]
        self._policy = found(**self._arguments(found, given, options))
        self._done = 0  # environment steps

    def _arguments(
        self, found: type, given: Mapping[str, Any], options: Mapping[str, float]
    ) -> dict[str, Any]:
        """What the constructor is called with."""
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        takes = {p.name: p for p in inspect.signature(found).parameters.values() if p.kind in kinds}
        choices = [option for option in takes if option not in given]
        if unknown := sorted(set(options) - set(choices)):
            raise PolicyError(
                f"the policy {self.name!r} has no option {', '.join(unknown)}; its options are "
                f"{', '.join(choices) or 'none'} (in {self.file})"
            )
        needed = [option for option in choices if takes[option].default is inspect.Parameter.empty]
        if missing := [option for option in needed if option not in options]:
            raise PolicyError(
                f"the policy {self.name!r} needs {', '.join(missing)}: +policy_options.{missing[0]}=..., or give it a "
                f"default in {self.file}"
            )
        return {**{key: value for key, value in given.items() if key in takes}, **options}

    def reset(self, rng: np.random.Generator) -> None:
        self._done = 0
        self._policy.reset(rng)

    def act(self, observation: np.ndarray) -> np.ndarray:
        # A copy: a policy may use one array again and again.
        actions = np.atleast_2d(np.array(self._policy.act(observation), dtype=np.float32))
        left = self._block - self._done % self._block
        if actions.shape not in ((left, self._low.size), (1, self._low.size)):
            raise PolicyError(
                f"act of the policy {self.name!r} returned an array of shape {actions.shape}; needed is "
                f"({left}, {self._low.size}) or ({self._low.size},), see {self.file}"
            )
        if not ((actions >= self._low) & (actions <= self._high)).all():  # NaN is not inside either
            raise PolicyError(
                f"act of the policy {self.name!r} returned {actions.tolist()}, which is not inside the bounds "
                f"{self._low.tolist()} to {self._high.tolist()}; clip it in {self.file}"
            )
        self._done += len(actions)
        return actions


def code_hash(name: str) -> str:
    """Names the code of the policy "module:ClassName": sha256 of the file that it is in; empty for other names.

    Raises:
        PolicyError: there is no such module.
    """
    if ":" not in name:
        return ""
    file = inspect.getsourcefile(_load(name))
    if file is None:
        return ""
    with open(file, "rb") as source:
        return hashlib.sha256(source.read()).hexdigest()[:16]


def _load(name: str) -> type:
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        missing = getattr(error, "name", None)
        if missing is not None and not f"{module_name}.".startswith(f"{missing}."):
            raise PolicyError(
                f"the policy {name!r} imports {missing}, which is not installed; install it"
            ) from error
        file = f"{module_name.replace('.', '/') or 'my_policies'}.py"
        raise PolicyError(
            f"the policy {name!r} is not found: Python has no module {module_name!r}; start the command from the "
            f"folder of {file} with PYTHONPATH=. before it"
        ) from error
    file = getattr(module, "__file__", None) or module_name
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = [
            key for key, value in vars(module).items() if getattr(value, "__module__", "") == module_name
        ]
        raise PolicyError(
            f"{file} has no class {class_name!r}; it has {', '.join(classes) or 'none'}: policy={module_name}:NAME"
        )
    if lacks := [method for method in ("reset", "act") if not callable(getattr(found, method, None))]:
        raise PolicyError(
            f"the class {class_name} in {file} has no {' and no '.join(lacks)}; an exploring policy has reset(rng) "
            "and act(observation)"
        )
    return found
