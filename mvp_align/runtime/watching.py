"""What of a run is watched, and what of it leaves the machine: parts of the config."""

from dataclasses import dataclass, field


@dataclass
class StopOn:
    """Bounds that training is to keep, looked at in every evaluation in training
    (docs/options.md)."""

    chosen_shift: float | None = None
    """Lowest mean shift of the validation pairs' chosen answers against the base model, in nats a
    token (opa/chosen_shift); below 0, as in -1.0."""
    perplexity: float | None = None
    """Highest perplexity of the neutral text, as a multiple of the base model's; above 1, as in
    1.2."""
    action: str = field(default="stop", metadata={"choices": ("stop", "warn")})
    """What happens where a bound is passed. stop: training ends there, and the run ends as it
    would have. warn: a line says so, and the report."""


@dataclass
class Tracking:
    backend: str = "wandb"
    """wandb, tensorboard, trackio or none."""
    mode: str = field(default="auto", metadata={"choices": ("auto", "offline", "online")})
    """auto: what W&B's or trackio's own variables say (docs/tracking.md); without, W&B is online
    where WANDB_API_KEY is set, and everything else offline."""
    project: str | None = None
    """By default mvp-align, or what WANDB_PROJECT says."""
    entity: str | None = None
    group: str | None = None
    """What runs are compared by; by default the run's name without its seed."""
    tags: list[str] = field(default_factory=list)
    samples: int = 20
    """Pairs of each set shown with their ids and margins; 0 shows none."""
    texts: bool = False
    """Show their questions and answers as well, where the data's licence lets them leave the
    machine (docs/tracking.md). Profiles never do."""
    artifacts: bool = True
    """Hand over the adapter, the scores and the report when the run ends."""
