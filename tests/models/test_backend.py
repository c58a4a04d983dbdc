"""What has to be said before torch is imported."""

import os
import subprocess
import sys

import pytest

ROOM_GROWS = "expandable_segments:True"


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has it on Linux")
@pytest.mark.parametrize(
    ("given", "found"),
    [({}, ROOM_GROWS), ({"PYTORCH_ALLOC_CONF": "x:1"}, "x:1"), ({"PYTORCH_CUDA_ALLOC_CONF": "x:1"}, "None")],
    ids=str,
)
def test_gpu_memory_may_grow_in_place_unless_the_user_says_otherwise(given, found):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTORCH_")} | given
    code = "import os, sys, sft.backend; print(os.environ.get('PYTORCH_ALLOC_CONF'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [found, "False"]
