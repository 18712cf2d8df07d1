"""What a resumed run under DeepSpeed lets a checkpoint's files say."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mvp_align.training.resumable import tensors_only


class Command:
    """Pickled, it is an order to make the folder `target`."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_a_checkpoint_that_gives_orders_is_refused(tmp_path: Path) -> None:
    file, target = tmp_path / "optim_states.pt", tmp_path / "made"
    torch.save({"exp_avg": torch.ones(2), "step": Command(target)}, file)
    with tensors_only(), pytest.raises(pickle.UnpicklingError, match="mkdir"):
        torch.load(file, weights_only=False)  # as DeepSpeed does
    assert not target.exists()
    torch.load(file, weights_only=False)
    assert target.exists()  # it would have been obeyed


def test_tensors_and_what_deepspeed_saves_beside_them_are_read(tmp_path: Path) -> None:
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    file = tmp_path / "optim_states.pt"
    torch.save({"exp_avg": torch.ones(2), "scaler": LossScaler(1.0), "stage": ZeroStageEnum.gradients}, file)
    with tensors_only():
        found = torch.load(file, weights_only=False)
    assert found["exp_avg"].tolist() == [1, 1] and found["scaler"].cur_scale == 1.0
    assert found["stage"] is ZeroStageEnum.gradients
