import gc

import pytest

from aiopyramid import garbage


@pytest.fixture(autouse=True)
def as_found():
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


@pytest.mark.parametrize(
    ("threshold", "then"), [(700, garbage.LESS_OFTEN), (2000, garbage.LESS_OFTEN), (5000, 5000)]
)
def test_a_threshold_that_nobody_has_chosen_is_raised(threshold, then):
    gc.set_threshold(threshold, 11, 12)
    garbage.collect_less()
    assert gc.get_threshold() == (then, 11, 12)


def test_what_is_loaded_is_not_looked_at_again():
    garbage.collect_less()
    assert gc.get_freeze_count() > 1000
