"""Make Hydra search `./conf` for presets before the package's own."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from typing_extensions import override

from mvp_align.runtime.folders import own_folder


class OwnConfigFirst(SearchPathPlugin):
    """Prepends `./conf`. Hydra calls this whenever it starts to compose."""

    @override
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if own := own_folder("conf"):
            search_path.prepend("own", f"file://{own}", anchor="main")


def search_own_config() -> None:
    """Register the plugin for this program only.

    In the package `hydra_plugins`, every Hydra program of the environment would load it.
    """
    Plugins.instance().register(OwnConfigFirst)
