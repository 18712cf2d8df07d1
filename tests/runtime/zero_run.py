"""Run by torchrun with a command line's overrides: its recipe under DeepSpeed on CPUs.

For a sum over the processes of one CPU DeepSpeed compiles a kernel of its own, for a minute or
more, on its first day on a machine. Without it, as on GPUs, it asks torch.
"""

import sys

import deepspeed.comm.torch
import hydra

from mvp_align.launch import CONF_DIR, to_config
from recipes import lora_dpo, lora_sft

deepspeed.comm.torch.build_shm_op = lambda: None
with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
    config = to_config(hydra.compose("train", sys.argv[1:]))
{"lora_dpo": lora_dpo, "lora_sft": lora_sft}[config.recipe].main(config)
