"""What plugins are installed, by the metadata of their packages."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from dcfast.errors import PluginError, first_line
from dcfast.storage.records import Record

FILTERS, EVALUATION_TASKS, STAGES = GROUPS = ("dcfast.filters", "dcfast.evaluation_tasks", "dcfast.stages")


class PluginUse(Record):
    """A plugin that a run used, as its manifest has it: what it is, and whose."""

    group: str
    name: str
    package: str
    version: str


@dataclass(frozen=True)
class Plugin:
    """An entry point of a package."""

    entry: EntryPoint

    @property
    def use(self) -> PluginUse:
        dist = self.entry.dist
        package, version = ("", "") if dist is None else (dist.name, dist.version)
        return PluginUse(self.entry.group, self.entry.name, package, version)

    def __str__(self) -> str:
        use = self.use
        return f"plugin {use.name!r} of package {use.package} {use.version} ({use.group} = {self.entry.value})"

    def load(self, kind: str) -> object:
        """What the entry point names. PluginError: it cannot be imported; names plugin, package and the reason.

        Args:
            kind: what it must be, for the message.
        """
        try:
            return self.entry.load()
        except Exception as error:  # of somebody else's code: anything
            raise PluginError(
                f"{self} cannot be loaded as {kind} ({type(error).__name__}: {first_line(error)}); mend or upgrade the "
                "package, or pip uninstall it"
            ) from error

    def refuse(self, problem: str) -> PluginError:
        """The error that the plugin is not what it must be."""
        return PluginError(f"{self}: {problem}; the package has to be mended (docs/plugins.md)")


def installed_plugins(group: str) -> list[Plugin]:
    """All plugins of a group, by name. Nothing is imported.   Cost: a look at the metadata of each package."""
    found = {(e.name, e.value, e.dist.name if e.dist else ""): Plugin(e) for e in entry_points(group=group)}
    return [found[key] for key in sorted(found)]


def plugin_names(group: str) -> list[str]:
    """The names of the plugins of a group, sorted."""
    return sorted({plugin.entry.name for plugin in installed_plugins(group)})


def find_plugin(group: str, name: str, own: Collection[str] = ()) -> Plugin | None:
    """The plugin of a name; None where there is none.

    Args:
        own: names of dcfast's own, which no plugin may take.
    Raises:
        PluginError: it is a name of dcfast's own, or of several packages.
    """
    found = [plugin for plugin in installed_plugins(group) if plugin.entry.name == name]
    if not found:
        return None
    if name in own:
        raise PluginError(f"{found[0]} has a name of dcfast's own, and is never used: the package has to rename it")
    if len(found) > 1:
        raise PluginError(f"{' and '.join(map(str, found))} have one name: pip uninstall one of the packages")
    return found[0]
