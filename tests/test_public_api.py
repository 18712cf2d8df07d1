"""`mvp_align.__all__`: every name imports, and importing the package does not load torch."""

import subprocess
import sys

import pytest

import mvp_align


def test_every_name_imports() -> None:
    names: dict[str, object] = {}
    exec("from mvp_align import *", names)
    assert {*mvp_align.__all__} <= {*names}
    for name in mvp_align.__all__:
        assert getattr(names[name], "__name__", name) == name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'OPACallbak'"):
        mvp_align.OPACallbak  # noqa: B018


def test_importing_the_package_loads_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'numpy'} & {*sys.modules}"
    alone = f"import sys, mvp_align; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", alone], check=True, timeout=60)
