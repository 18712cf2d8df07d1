"""Run by torchrun with overrides: the recipe lora_dpo under FSDP2 on CPUs.

accelerate shards only on accelerators, so here it is told that the gloo processes are GPUs.
Sharding, gathering, training, saving and scoring then run the same code as on GPUs.
"""

import sys
from typing import Any

import hydra
from accelerate import PartialState
from accelerate.utils import DistributedType

from mvp_align.launch import CONF_DIR, to_config
from recipes import lora_dpo

made = PartialState.__init__


def make(self: PartialState, *args: Any, **kwargs: Any) -> None:
    made(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = make
with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
    config = to_config(hydra.compose("train", sys.argv[1:]))
lora_dpo.main(config)
