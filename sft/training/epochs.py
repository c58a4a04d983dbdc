"""Default number of epochs: three, and more for few rows.

With fewer than about a hundred steps an adapter stays near its base at any learning rate: after three epochs of 54
reviews, every answer was the same label (docs/choosing.md has the sweeps).
"""

import math

USUAL_EPOCHS = 3
ENOUGH_STEPS = 150
MOST_EPOCHS = 20  # with very few rows, more epochs taught the embedded model nothing more


def choose_epochs(num_rows: int, rows_per_step: int) -> int:
    """60 rows, 8 per step -> 19 epochs of 8 steps; 1,000 rows -> 3 of 125."""
    steps_per_epoch = math.ceil(num_rows / rows_per_step)
    return min(MOST_EPOCHS, max(USUAL_EPOCHS, math.ceil(ENOUGH_STEPS / steps_per_epoch)))
