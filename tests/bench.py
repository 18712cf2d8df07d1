"""Build config, plan and model as the recipes do, on short pairs, for runs of seconds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import DPOTrainer, SFTTrainer

from mvp_align.config import Config
from mvp_align.data.load import DataSets
from mvp_align.modeling.adapters import save_adapter, start_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.source import load_tokenizer
from mvp_align.planning.preflight import make_plan
from mvp_align.schema import PreferencePair
from mvp_align.training.plan import Plan
from mvp_align.training.trainers import TrainerParts, dpo_trainer, sft_trainer


@dataclass
class Bench:
    config: Config
    plan: Plan
    tokenizer: PreTrainedTokenizerBase
    placement: Placement
    folder: Path

    @property
    def logps(self) -> Path:
        return self.folder / "logps"

    def model(self) -> PeftModel:
        return start_adapter(
            load_base(self.config.model, self.placement, self.config.quantization), self.config
        )

    def parts(
        self, model: PeftModel | None = None, callbacks: Sequence[TrainerCallback] = ()
    ) -> TrainerParts:
        return TrainerParts(
            self.config,
            self.plan,
            model or self.model(),
            self.tokenizer,
            self.placement,
            self.folder / "checkpoints",
            self.logps,
            callbacks,
        )

    def dpo(
        self, model: PeftModel | None = None, callbacks: Sequence[TrainerCallback] = ()
    ) -> DPOTrainer:
        return dpo_trainer(self.parts(model, callbacks))

    def sft(self) -> SFTTrainer:
        return sft_trainer(self.parts())

    def adapter(self, name: str, std: float = 0.3) -> Path:
        """A saved adapter with random B."""
        model = self.model()
        torch.manual_seed(len(name))
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.normal_(std=std)
        save_adapter(model, self.tokenizer, self.folder / name)
        return self.folder / name


@pytest.fixture
def bench(
    compose: Callable[..., Config],
    sharp: list[str],
    placement: Placement,
    few_pairs: list[PreferencePair],
    tmp_path: Path,
) -> Callable[..., Bench]:
    """`bench("train.beta=0.2", ...)`: steps of 4 pairs, 2 per pass, on the 16 short pairs."""

    def made(*overrides: str, pairs: Sequence[PreferencePair] = few_pairs) -> Bench:
        config = compose(*sharp, "evals.sets=[]", "train.batch_size=4", *overrides)
        tokenizer = load_tokenizer(config.model)
        return Bench(
            config,
            make_plan(config, DataSets(train=list(pairs)), tokenizer, placement),
            tokenizer,
            placement,
            tmp_path,
        )

    return made


@pytest.fixture
def losses() -> Callable[..., list[float]]:
    def logged(trainer: DPOTrainer | SFTTrainer, key: str = "loss") -> list[float]:
        return [row[key] for row in trainer.state.log_history if key in row]

    return logged
