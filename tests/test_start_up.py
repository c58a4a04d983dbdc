"""What starting a script does not import: libraries that transformers and PEFT load for parts nobody asked for."""

import subprocess
import sys

from tests.commands import ROOT

HELD_OFF = ("bitsandbytes", "matplotlib", "networkx", "pandas", "scipy", "sklearn", "torch._dynamo", "torch._inductor")
LOADED = f"print([name for name in {HELD_OFF!r} if name in sys.modules])"


def run(code: str, *arguments: str) -> str:
    """What code prints on stdout, in a fresh Python."""
    command = [sys.executable, "-c", f"import sys\n{code}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True).stdout


def test_an_answer_imports_none_of_them(tiny_run):
    code = (
        "from sft.inference import Predictor\npredictor = Predictor(sys.argv[1])\n"
        f"assert predictor.predict('hello').num_tokens > 0\n{LOADED}"
    )
    assert run(code, str(tiny_run)) == "[]\n"


def test_what_was_held_off_is_there_when_it_is_used():
    code = """
import sft, peft.helpers, transformers.masking_utils as masks
assert "bitsandbytes" not in sys.modules
import torch
assert peft.helpers.bnb.functional.dequantize_4bit.__name__ == "dequantize_4bit"
with masks.TransformGetItemToIndex():
    pass
import torch._dynamo._trace_wrapped_higher_order_op as real
assert torch.compiler.disable is not None and torch._dynamo.allow_in_graph is not None
from transformers.utils import is_sklearn_available, is_scipy_available
assert is_sklearn_available() and is_scipy_available()
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2
print("all there")
"""
    assert run(code) == "all there\n"


def test_torchao_is_not_imported_where_it_is_installed(tmp_path):
    for file, text in (
        ("torchao/__init__.py", ""),
        ("torchao-9.0.dist-info/METADATA", "Name: torchao\nVersion: 9.0\n"),
    ):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text(text)
    code = """
sys.path.insert(0, sys.argv[1])
import sft, transformers.quantizers, transformers.utils
print("torchao" in sys.modules, transformers.utils.is_torchao_available())
"""
    assert run(code, str(tmp_path)) == "False True\n"


def test_a_package_that_needs_the_compiler_gets_the_real_one_while_it_is_held_off():
    code = """
from sft.lean_imports import LEAN
import torch.compiler
marked = torch.compiler.disable
with LEAN["transformers.modeling_utils"]():
    assert torch.compiler.disable(run := lambda: 1) is run
    from torch._dynamo.utils import warn_once  # as torchao does, which transformers imports where it is installed
    assert torch.compiler.disable(run) is not run
assert torch.compiler.disable is marked and torch._dynamo.__file__ and torch._dynamo.disable(run) is not run
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2
print("the real one")
"""
    assert run(code) == "the real one\n"
