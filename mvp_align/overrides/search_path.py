"""Hydra finds presets of your own in `./conf`, before those of the package."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from typing_extensions import override

from mvp_align.runtime.folders import own_folder


class OwnConfigFirst(SearchPathPlugin):
    """Hydra asks it whenever it starts to compose."""

    @override
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if own := own_folder("conf"):
            search_path.prepend("own", f"file://{own}", anchor="main")


def search_own_config() -> None:
    """Registered here rather than in `hydra_plugins`, where every other program of the same
    environment would get it too."""
    Plugins.instance().register(OwnConfigFirst)
