import asyncio
import types

import gunicorn
import pytest

from aiopyramid_gunicorn import compat


def test_this_gunicorn_has_all_that_is_required():
    compat.check(compat.REQUIRED)


@pytest.mark.parametrize("owner", [type("Owner", (), {"there": 1}), types.ModuleType("Owner")])
def test_the_check_names_what_is_missing(owner):
    owner.there = 1
    with pytest.raises(ImportError, match=r"has no Owner\.missing") as caught:
        compat.check({asyncio: ("run",), owner: ("there", "missing")})
    assert f"gunicorn {gunicorn.__version__} " in str(caught.value)
