"""Pages in HTML: one file each, without network."""

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from mvp_align.figures.page_figures import figure_style


def page_template(name: str, **filters: Callable[..., str]) -> Template:
    """Return a template of this folder, which knows `figure_style`: the colours of every page, and
    the CSS of figures. What it is filled with is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    environment.globals["figure_style"] = Markup(figure_style())
    return environment.get_template(name)


def template_text(name: str) -> str:
    """Return a file of this folder as it is: a script that a page names by its hash."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
