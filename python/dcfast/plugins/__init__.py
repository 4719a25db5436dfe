"""Plugins: filters, evaluation tasks and stages that other packages bring by entry points (docs/plugins.md).

``installed`` finds them, without importing any; ``Plugin.load`` imports one. The package's own names always win: a
plugin of such a name is refused.
"""

from __future__ import annotations

from dcfast.plugins.installed import (
    EVALUATION_TASKS,
    FILTERS,
    GROUPS,
    STAGES,
    Plugin,
    PluginUse,
    find_plugin,
    installed_plugins,
    plugin_names,
)

__all__ = ["EVALUATION_TASKS", "FILTERS", "GROUPS", "STAGES"]
__all__ += ["Plugin", "PluginUse", "find_plugin", "installed_plugins", "plugin_names"]
