"""A script of ours with accelerate made to believe that CPUs hold pieces of weights (FSDP), as it does of GPUs.

    accelerate launch --config_file recipes/accelerate/fsdp2.yaml tests/pieces_on_cpu.py train.py --data ...

Without it, accelerate 1.15 starts DDP there, in silence. Everything else is real: FSDP2 and gloo take CPUs as they are.
"""

import runpy
import sys
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType

ROOT = Path(__file__).parents[1]
begin = PartialState.__init__


def begin_as_with_gpus(self: PartialState, *arguments: object, **more: object) -> None:
    """As it is, except for the name of what there are several of."""
    begin(self, *arguments, **more)
    if self.distributed_type is DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = begin_as_with_gpus
    script, *sys.argv[1:] = sys.argv[1:]
    sys.path.insert(0, str(ROOT))
    runpy.run_path(str(ROOT / script), run_name="__main__")
