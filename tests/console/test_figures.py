import math

import pytest

from sft.console.figures import show_figure


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.8870132209018449, "0.887"),
        (2.42786730785275, "2.4279"),
        (297.9, "297.9"),
        (100.0, "100"),
        (0.0, "0"),
        (-0.25, "-0.25"),
        (0.0000123, "1.2e-05"),
        (328, "328"),
        (None, "None"),
        ("checkpoint-328", "checkpoint-328"),
        (math.nan, "nan"),
    ],
)
def test_a_figure_is_shown_with_the_digits_that_say_something(value, shown):
    assert show_figure(value) == shown
