"""The typed configuration: every key that a command may set, with its type, default and unit.

Hydra composes `conf/` over these dataclasses, so an unknown key or a wrong type fails while
composing; `mvp_align.validate` finds the combinations that cannot work. Nothing here imports torch.
"""

from dataclasses import dataclass, field
from functools import partial

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from mvp_align.runtime.api import Api
from mvp_align.runtime.folders import packaged_settings
from mvp_align.runtime.naming import DEFAULT_NAME
from mvp_align.runtime.watching import StopOn, Tracking


def _one_of(*choices: str) -> str:
    """A setting that takes these values alone, by default the first; `mvp_align.validate` refuses
    others. Metadata and not an enum, because `4bit` cannot name a member, and because OmegaConf
    stops at the first value that is no member, where a command is told all its mistakes at once."""
    return field(default=choices[0], metadata={"choices": choices})


@dataclass
class Run:
    name: str = DEFAULT_NAME
    """By default of recipe, model, data, prompt, adapter, seed and, in a sweep, the values that are
    swept."""
    dir: str = "outputs/${run.name}"
    """The run folder. No timestamp: the same command again resumes it, or says that it is done."""
    on_exists: str = _one_of("resume", "fail", "overwrite")
    """What to do where the folder holds a run: resume (goes on, or says that it is DONE), fail, or
    overwrite (deletes it). A job that Slurm started again always resumes."""
    logp_cache: bool = True
    """Keep log-probs of the base model and of references for later runs (`mvp-align cache ls`).
    Their last bits then depend on the run that computed them first, by the rounding of another
    batch."""


@dataclass
class Model:
    name: str = "???"
    id: str = "???"
    """A Hugging Face id, a local folder with safetensors weights, or gguf:PACKAGE/FILE@HUB_ID: the
    GGUF file in an installed Python package. It is a copy of HUB_ID, which adapters name as their
    base, and which is loaded in its place, and said so, where the package is not installed."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id."""
    api: Api = field(default_factory=Api)
    """Where a model that nobody here has the weights of is asked (runtime/api.py)."""


@dataclass
class Data:
    name: str = "???"
    format: str = "mvpbench"
    """mvpbench (both editions' field names), another of docs/data.md, or auto: recognised."""
    columns: dict[str, str] = field(default_factory=dict)
    """What the records call the fields of the format, as in `{prompt: question, chosen: best}`."""
    values: str | None = None
    """A YAML file that says where records hold what people state (docs/data.md)."""
    license: str | None = None
    """Under which licence `train`, `val` and `test` are, by its SPDX id such as CC-BY-4.0, or own:
    yours to pass on. It decides whether texts may leave the machine (tracking.texts)."""
    train: str | None = None
    val: str | None = None
    test: str | None = None
    """A file, a folder, or hf:<dataset id>[:<split>] (docs/data.md)."""
    test_share: float = 0.2
    """Share of the users held out of `train` for testing where no `test` is given."""
    limit: int | None = None
    """Only the first N records of each file: quick, and no sample of it."""
    drop_repeats: bool = False
    """Keep one of the pairs that repeat question, chosen and rejected (whatever their profile)."""
    counterfactual: str = _one_of("none", "dimension", "all")
    """Train also on each pair as somebody would decide it who states the opposite, with its answers
    exchanged: an assumption about people, not an answer of theirs. dimension: the opposite of the
    value that the question is about. all: of all values."""
    support: int | None = None
    """Pairs of each validation and test person that are shown as their earlier choices and never
    scored. By default as many as a prompt of the run shows. Given, runs under other prompts score
    the same pairs."""
    max_prompt_tokens: int = 512
    max_tokens: int = 1024
    """Prompt with its longer answer. A pair over either limit is left out and counted; nothing is
    ever cut."""


@dataclass
class Prompt:
    name: str = "???"
    template: str = "???"
    """Filled with the fields of the pair; `{question}` is one of them."""
    chat: bool | str = False
    """Wrap the text as a user's turn in the model's own chat template; auto: where it has one."""
    date: str = "2024-07-26"
    """What a chat template that states today's date (Llama-3.1's) states instead, in ISO 8601, so
    that the same command shows the same prompt on another day. The default is the date that
    Llama-3.1's template falls back to."""
    choices: int = 0
    """Earlier choices of the same person that `{choices}` shows, at most (docs/people.md)."""
    choice: str = "Question: {question}\nPreferred answer:\n{chosen}\nOther answer:\n{rejected}\n\n"
    """How each of them is written."""


@dataclass
class Lora:
    r: int = 16
    alpha: int | float = 32
    dropout: float = 0.05
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj"])
    """Names of linear layers, or [all-linear]."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Layers with another rank than `r`: names, their ends, or regular expressions: {v_proj: 8}."""
    alpha_pattern: dict[str, int | float] = field(default_factory=dict)
    """Layers with another alpha than `alpha`, named alike."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r, so that a higher rank does not learn more
    slowly (rsLoRA: Kalajdzievski 2023, arXiv 2312.03732)."""
    use_dora: bool = False
    """Train each weight's direction by LoRA and its magnitude, one number a row, by itself (DoRA:
    Liu et al. 2024, arXiv 2402.09353). Slower, and takes more memory."""
    init: str = "default"
    """How the adapter starts. default: A random, B zero. pissa: as the principal part of each
    weight, of rank `r`; a second half of the adapter, which is held, takes that off again, so that
    the model starts as the base (PiSSA: Meng et al. 2024, arXiv 2404.02948; docs/options.md).
    pissa_niter_N: the same by a fast SVD of N iterations."""


@dataclass
class Train:
    learning_rate: float = 5e-5
    loraplus_lr_ratio: float | None = None
    """The learning rate of B, and of DoRA's magnitudes, as a multiple of `learning_rate`, which A
    keeps (LoRA+: Hayou et al. 2024, arXiv 2402.12354)."""
    epochs: float = 3.0
    max_steps: int | None = None
    """Optimizer steps; where set, it decides instead of `epochs`."""
    batch_size: int = 8
    """Pairs an optimizer step, over all devices."""
    micro_batch_size: int | str = "auto"
    """Pairs a forward pass on each device; `auto` finds the largest that fits (docs/memory.md)."""
    beta: float = 0.1
    loss_type: str = "sigmoid"
    """One of TRL's DPO losses, or several joined by `+`, such as sigmoid+sft."""
    loss_weights: list[float] | None = None
    label_smoothing: float = 0.0
    f_divergence_type: str = _one_of(
        "reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"
    )
    """What keeps the policy near the reference (f-DPO: Wang et al. 2023, arXiv 2309.16240).
    reverse_kl: DPO as it was published."""
    f_alpha_divergence_coef: float = 0.5
    """alpha_divergence's coefficient; towards 0 it becomes forward_kl, towards 1 reverse_kl."""
    ld_alpha: float | None = None
    """What tokens count beyond the length of the shorter answer, from 0 up to 1, so that length
    alone earns less (LD-DPO: Liu et al. 2024, arXiv 2409.06411)."""
    use_weighting: bool = False
    """Weight each pair by how probable its answers are under the policy (WPO: Zhou et al. 2024,
    arXiv 2406.11827)."""
    discopop_tau: float = 0.05
    """The temperature of train.loss_type=discopop (DiscoPOP: Lu et al. 2024, arXiv 2406.08414)."""
    objective: str = _one_of("mean", "importance", "gr_dpo", "kl_dpo")
    """What a step's pairs weigh. mean: all the same, so that whoever is most of the data decides.
    importance: every group as much as any other. gr_dpo: groups with a higher loss more, step by
    step (robust optimisation over groups). kl_dpo: pairs with a higher loss more."""
    objective_by: str = "level"
    """The groups of importance and gr_dpo: a variable that results are broken down by, or several
    crossed by `+` (dimension+level). Groups of fewer than `evals.min_users` people are pooled."""
    objective_eta: float = 0.05
    """gr_dpo's step size."""
    objective_tau: float = 1.0
    """kl_dpo's temperature."""
    order: str = _one_of("shuffled", "disagreeing")
    """Which pairs share an optimizer step. shuffled: any. disagreeing: those of one question that
    prefer different answers, as far as there are, so that what ignores the person cancels."""
    reference: str = "base"
    """What DPO's implicit reward is measured against: `base` (adapter switched off) or the path of
    an adapter."""
    disable_dropout: bool = True
    lr_scheduler: str = _one_of(
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    )
    """Of transformers' schedulers those that need no arguments of their own."""
    warmup_share: float = 0.0
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    save_steps: int = 200
    best_by: str | None = None
    """Keep the adapter of the best evaluation in training by this metric of validation pairs, and
    not the last one: opa/acc@0, opa/worst_group ... (docs/people.md)."""
    stop_on: StopOn = field(default_factory=StopOn)
    dry_run: bool = False
    """Load config, data and tokenizer, print what the run would do, and stop."""


@dataclass
class Evals:
    sets: list[str] = field(default_factory=lambda: ["auto"])
    """Of in_domain, ufp4 (its files are in the folder `ufp4`) and ufp4_sample (the bundled
    synthetic stand-in). auto: in_domain, and ufp4 where its folder is given; on the bundled sample
    data ufp4_sample too."""
    metrics: list[str] = field(
        default_factory=lambda: ["opa"], metadata={"choices": ("opa", "spmr", "paa")}
    )
    """opa; spmr and paa generate answers first."""
    judge: str = "semantic"
    """Who labels the answers for paa when the run ends: semantic (nearer which reference? no judge
    of values, no network), a judge of conf/judge or a YAML file (up to 5 USD; `mvp-align judge` has
    the options), or none (judge later)."""
    profiles: list[str] = field(default_factory=list)
    """Score the same pairs also under these profiles: none, demographics, values, shuffled
    (docs/checks.md)."""
    choices: list[int] = field(default_factory=list)
    """Score the same pairs also with so many earlier choices shown, the person's own and another
    person's: the few-shot curve (docs/people.md)."""
    batch_size: int = 8
    """Pairs a forward pass. It changes speed and memory, not the scores."""
    ufp4: str | None = None
    """Folder of UF-P-4's four files: data/UF-P-4 after `mvp-align data fetch ufp4`."""
    every_steps: int | None = None
    """During training, score `every_pairs` validation pairs, and all of ufp4 or ufp4_sample, every
    so many steps."""
    every_pairs: int | None = 64
    """Drawn by the seed, evenly over dimensions and levels; null: all of them."""
    worst_by: str | None = "level"
    """The groups of the metric opa/worst_group, in training and at the end: a variable that results
    are broken down by, or several crossed by `+` (dimension+level). Groups of fewer than
    `min_users` people are left out. null: no such metric."""
    min_users: int = 5
    """Groups of fewer people are counted, and their results not shown."""
    regions: str = "authors"
    """What regions of birth are: authors (the benchmark's charts), un (M49), prism, or a .yaml or
    .json file of `country: region`."""


def packaged_prompt(name: str) -> Prompt:
    """`conf/prompt/<name>.yaml`, for code that has no composed config."""
    return Prompt(**packaged_settings("prompt", name))


@dataclass
class Generation:
    """How answers are generated, where evals.metrics has spmr or paa and in `mvp-align
    generate`."""

    prompt: Prompt = field(default_factory=partial(packaged_prompt, "paa"))
    """Its `chat` holds where the model has a chat template; other models get the text alone."""
    max_new_tokens: int = 512
    temperature: float = 0.7
    """0 takes the most probable token each time. Above, tokens are drawn, the same ones for the
    same seed."""
    engine: str = _one_of("plain", "continuous")
    """How answers are generated in this process (docs/answers.md). plain: transformers' `generate`,
    batch by batch. continuous: its continuous batching, where a finished answer makes room for the
    next; made for GPUs, and not measured on one yet."""
    batch_size: int = 8
    """Answers generated at once on each device."""
    limit: int | None = None
    """Only N pairs of each set, drawn by the seed, evenly over user types, or dimensions and
    levels."""
    every_pairs: int = 16
    """During training, answers to so many validation pairs, drawn alike, at each evaluation, where
    evals.metrics has paa or spmr."""


@dataclass
class Hardware:
    device: str = _one_of("auto", "cpu", "cuda")
    precision: str = _one_of("auto", "fp32", "bf16", "fp16")
    """auto: bf16 on GPUs that have it, fp16 on older ones, fp32 on a CPU."""
    attention: str = _one_of("auto", "sdpa", "eager", "flash_attention_2")
    """auto: the model's best. Prompts are shared under auto and sdpa only."""
    gradient_checkpointing: bool | str = "auto"
    """true: compute each layer again in the backward pass, which saves memory and costs a third of
    a step. auto: only where the longest micro-batch does not fit without (tried before step 1), or
    where the larger micro-batch that it makes room for is faster; never on a CPU."""
    activation_offloading: bool = False
    """Keep what the backward pass needs in the machine's memory instead of the GPU's, at the price
    of copying it there and back."""
    compile: bool = False
    """Compile the model's layers for training and scoring (torch.compile). The seconds that it
    took are printed before step 1. It changes the last bits."""
    loader_workers: int | str = "auto"
    """Processes that make and pack micro-batches ahead of time. auto: 1 on a GPU, none on a CPU,
    which would take its time from training."""
    sharding: str = _one_of("none", "fsdp", "zero2")
    """none: a whole model on each device. fsdp: its weights and the optimizer spread over all of
    them (PyTorch's FSDP2). zero2: a whole model on each device, gradients and optimizer spread over
    all of them (DeepSpeed, an extra)."""


@dataclass
class Config:
    recipe: str = "???"
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    prompt: Prompt = field(default_factory=Prompt)
    lora: Lora = field(default_factory=Lora)
    quantization: str = _one_of("none", "4bit")
    """4bit: NF4 with double quantisation, as in QLoRA."""
    adapter: str | None = None
    """An adapter to evaluate, or to go on training from. It brings its own `lora` settings, which
    then are the run's, and, where its folder holds one, its tokenizer."""
    adapter_base: str = _one_of("same", "any")
    """same: an adapter is refused on any other model than the one it was trained on. any: it is put
    on this one, with a note in the run's records."""
    train: Train = field(default_factory=Train)
    evals: Evals = field(default_factory=Evals)
    generation: Generation = field(default_factory=Generation)
    tracking: Tracking = field(default_factory=Tracking)
    hardware: Hardware = field(default_factory=Hardware)
    run: Run = field(default_factory=Run)
    seed: int = 12


def _open_to_names() -> DictConfig:
    """`Config` as Hydra gets it: mappings from names take any name, nothing else does."""
    config = OmegaConf.structured(Config)
    for mapping in (config.lora.rank_pattern, config.lora.alpha_pattern, config.data.columns):
        OmegaConf.set_struct(mapping, False)
    assert isinstance(config, DictConfig)
    return config


ConfigStore.instance().store(name="typed_config", node=_open_to_names())
