"""torch's compiler and timm's models stay away until somebody uses them, and are then themselves."""

import subprocess
import sys

import pytest

LATER = "from attndistill.core.later import import_later; import_later()\nimport sys, torch\n"


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", LATER + program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_training_loads_neither_the_compiler_nor_distributed_tensors():
    run("""
import accelerate, timm.optim
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.AdamW(model.parameters())
accelerator = accelerate.Accelerator(cpu=True)
trained, optimizer = accelerator.prepare(model, optimizer)
before = model.weight.clone()
accelerator.backward(trained(torch.ones(3, 2)).sum())
optimizer.step(); optimizer.zero_grad(); optimizer.load_state_dict(optimizer.state_dict())
assert not torch.equal(before, model.weight)
assert not isinstance(model.weight, timm.optim.muon.DTensor)
assert not {"torch._inductor", "torch._dynamo.config", "torch.distributed.tensor._ops"} & set(sys.modules)
""")


@pytest.mark.parametrize(
    "use",
    [
        "torch.compile(model, backend='eager')(torch.ones(3, 2))",
        "import torch._dynamo.config",
    ],
)
def test_whoever_uses_the_compiler_gets_the_compiler(use):
    run(f"""
import timm.optim
limit = torch._dynamo.config.cache_size_limit = 12345
model = torch.nn.Linear(2, 1).eval()
{use}
assert torch._dynamo is sys.modules["torch._dynamo"] and torch._dynamo.__file__
assert torch._dynamo.config.recompile_limit == limit, "a setting made before is kept"
assert torch._dynamo.config is sys.modules["torch._dynamo.config"]
assert torch._dynamo.config.__spec__.origin
compiled = torch.compile(model, backend="eager")
assert isinstance(compiled, torch._dynamo.eval_frame.OptimizedModule)
""")


def test_a_class_that_was_taken_early_knows_the_instances_of_the_true_one():
    run("""
from torch.distributed.tensor import DTensor as Early
from torch._dynamo import eval_frame
early = eval_frame.OptimizedModule
model = torch.nn.Linear(2, 1)
assert not isinstance(model, early)
assert isinstance(torch.compile(model, backend="eager"), early)
from torch.distributed.tensor import Replicate, DTensor
assert Early is not DTensor and "torch.distributed.tensor._ops" in sys.modules
""")


def test_a_part_of_timm_brings_no_models_with_it_until_one_is_asked_for_by_name():
    run("""
from timm.models.vision_transformer import VisionTransformer
import timm, timm.layers, timm.optim
assert timm.__version__ and "timm.models.swin_transformer" not in sys.modules
assert isinstance(timm.create_model("vit_tiny_patch16_224"), VisionTransformer)
assert "swin_tiny_patch4_window7_224" in timm.list_models() and timm.models.SwinTransformer
""")
