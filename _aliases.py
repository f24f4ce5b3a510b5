"""Public module names that differ from the folders: ``ingot.nn.functional`` is ``ingot.frontend.nn.functional``.

A finder in front of ``sys.meta_path`` answers for the public names with the real module itself, so there is one
module object with one ``__name__`` and one ``__spec__`` however it was imported; pickling and ``importlib.reload``
see the real name only. Without it ``import ingot.nn.functional`` would load the file a second time through
``ingot.nn.__path__``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec

# Neither typing nor importlib.abc is imported at run time: together they would take most of `import ingot`'s time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType


class AliasLoader:
    """Loads an alias by importing the real module and handing that over."""

    def __init__(self, real: str, loaded: Callable[[], None] | None = None) -> None:
        self.real = real
        self.spec: ModuleSpec | None = None
        self.loaded = loaded

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.real)
        if self.loaded is not None:
            self.loaded()
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just stamped the alias's spec on the module; the module already ran under its own.
        module.__spec__ = self.spec


class AliasFinder:
    """Finds ``<package>.<alias>`` and everything below it; ``table`` maps alias to real name, both without package.

    ``loaded`` is called after a module was loaded by one of its public names.
    """

    def __init__(self, package: str, table: Mapping[str, str], loaded: Callable[[], None] | None = None) -> None:
        self.loaded = loaded
        self.package = self.aliases_of = package
        self.prefix = package + "."
        self.table = dict(table)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(self.prefix):
            return None
        head, name, rest = fullname, "", ""
        # The longest alias that begins the name: ``utils.data`` before ``utils``.
        while head != self.package:
            name = head.removeprefix(self.prefix)
            if name in self.table:
                real = self.prefix + self.table[name] + rest
                if importlib.util.find_spec(real) is None:
                    return None
                return ModuleSpec(fullname, AliasLoader(real, self.loaded), origin=real)  # type: ignore[arg-type]
            head, _, last = head.rpartition(".")
            rest = f".{last}{rest}"
        return None


def install(package: str, table: Mapping[str, str], loaded: Callable[[], None] | None = None) -> None:
    """Put the finder for ``package`` in front of the import path; a reload replaces the earlier one."""
    sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "aliases_of", None) != package]
    sys.meta_path.insert(0, AliasFinder(package, table, loaded))  # type: ignore[arg-type]
