"""Run by torchrun with overrides: a recipe under DeepSpeed on CPUs.

For all-reduce among CPU processes, DeepSpeed compiles a kernel, which takes a minute or more the
first time on a machine. Without it, DeepSpeed uses torch, as on GPUs.
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
