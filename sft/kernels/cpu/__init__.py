"""The CPU wing: what computes faster on a CPU another way than on a GPU. The rest of the project comes in by this door.

attend_blocks                        attention of rows concatenated, in bf16
fuse_norms(model)                    norms in few passes over memory
map_batches, map_at_once, share_of   one batch to a core, not one product to all of them

Who reads how a GPU trains needs nothing of it: sft.training.on_cores, sft.kernels.attention and sft.scoring ask
here where tensors lie on a CPU.
"""

from sft.kernels.cpu.blocked_attention import attend_blocks
from sft.kernels.cpu.cores import map_at_once, map_batches, share_of
from sft.kernels.cpu.norms import fuse_norms

__all__ = ["attend_blocks", "fuse_norms", "map_at_once", "map_batches", "share_of"]
