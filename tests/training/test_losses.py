"""Loss names on the command line are those that TRL's trainer accepts."""

import inspect
import re
import subprocess
import sys

from trl import DPOConfig, DPOTrainer

from mvp_align.config import Train
from mvp_align.training.losses import losses_with_divergence, trl_losses

SMOOTHED = {"exo_pair", "robust", "aot", "aot_unpaired"}


def test_each_loss_of_the_trainer_is_known_by_its_own_formula() -> None:
    source = inspect.getsource(DPOTrainer._compute_loss)
    known = trl_losses()
    assert list(known) == re.findall(r'loss_type == "(\w+)"', source)
    assert len(known) >= 15
    assert "torch.relu" in known["hinge"]
    assert {name for name, formula in known.items() if "label_smoothing" in formula} == SMOOTHED


def test_losses_with_a_divergence_are_those_that_trl_takes_it_with() -> None:
    source = inspect.getsource(DPOTrainer.__init__)
    (taken,) = re.findall(r"f_divergence_loss_types = \{(.*?)\}", source)
    assert {*losses_with_divergence(), "sft"} == set(re.findall(r'"(\w+)"', taken))
    choices = next(
        one for one in DPOConfig.__dataclass_fields__.values() if one.name == "f_divergence_type"
    ).metadata["help"]
    declared = Train.__dataclass_fields__["f_divergence_type"].metadata["choices"]
    assert all(f"`'{name}'`" in choices or f"`{name}`" in choices for name in declared)


def test_they_are_the_ones_that_the_documentation_names() -> None:
    about = next(
        one for one in DPOConfig.__dataclass_fields__.values() if one.name == "loss_type"
    ).metadata["help"]
    assert set(re.findall(r"`'(\w+)'`", about)) == set(trl_losses())


def test_a_mistyped_loss_is_refused_without_torch() -> None:
    program = (
        "import sys\n"
        "from mvp_align.config import Config, Train\n"
        "from mvp_align.validate import combination_problems\n"
        "config = Config(recipe='lora_dpo', train=Train(loss_type='sigmiod'))\n"
        "print([one for one in combination_problems(config) if 'loss' in one])\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said, torch_loaded = done.stdout.splitlines()
    assert f"'sigmiod' is not one of {', '.join(trl_losses())}." in said
    assert torch_loaded == "False"
