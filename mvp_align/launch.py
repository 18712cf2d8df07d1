"""From the command line to a typed config: every mistake is found first and told in one message.

Hydra stops at the first wrong override. `check_command` composes each override by itself as well, and each value of a
sweep, so that a message lists all mistakes, and then asks `mvp_align.validate` for combinations that cannot work.
Nothing here imports torch.
"""

import difflib
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mvp_align import config as typed
from mvp_align.data.sets import chosen_sets
from mvp_align.errors import AlreadyDone, UserError, listed
from mvp_align.preemption import EXIT_CODE, Preempted, listen
from mvp_align.telemetry import switch_off_telemetry
from mvp_align.validate import combination_problems

CONF_DIR = Path(__file__).parents[1] / "conf"

WRONG = (HydraException, OmegaConfBaseException, ValueError)  # ValueError: what Hydra makes of `experiment=null`

LOST = ("by peer", "Connection refused", "Socket Timeout", "NCCL communicator was aborted")
"""What gloo and NCCL say in the processes that are left when one has died."""


def run(config_name: str, job: Callable[[typed.Config], None]) -> None:
    """Check the command line against `conf/<config_name>.yaml`, then let Hydra run `job` (once, or once a sweep value).

    A user's mistake ends the process with exit code 2 and a message without a traceback, a request to stop with 85.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # each start, it misses a kernel that nothing here uses
    warnings.filterwarnings("ignore", category=FutureWarning, module="(transformers|trl|peft)")
    switch_off_telemetry()
    os.environ.setdefault("WANDB_SILENT", "true")

    def composed(config: DictConfig) -> None:
        listen()  # here, because a launcher of sweeps may run this in a process of its own
        try:
            job(to_config(config))
        except AlreadyDone as done:
            if not rank():
                print(done)
        except Preempted as asked:
            if not rank():
                print(f"\nStopped ({asked}). What was done is kept: the same command again goes on.", file=sys.stderr)
            sys.exit(EXIT_CODE)
        except UserError as error:
            stop(error, rank())
        except RuntimeError as error:
            if not any(words in str(error) for words in LOST):
                raise
            print(f"\n[process {rank()}] lost another process, whose own message says why.", file=sys.stderr)
            sys.exit(1)

    words = get_args_parser().parse_args()
    if not (words.help or words.hydra_help):
        try:
            check_command(config_name, words.overrides)
        except UserError as error:
            stop(error) if not rank() else sys.exit(2)  # all processes find the same
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(composed)()


def rank() -> int:
    """Which of the processes of a distributed run this is; 0 speaks for all."""
    return int(os.environ.get("RANK", "0"))


def stop(error: UserError, rank: int = 0) -> NoReturn:
    print(f"\n[process {rank}] {error}" if rank else f"\n{error}", file=sys.stderr)
    sys.exit(2)


def to_config(config: DictConfig) -> typed.Config:
    """The composed config as dataclasses, interpolations and `evals.sets=[auto]` resolved."""
    made = OmegaConf.to_object(config)
    assert isinstance(made, typed.Config)
    made.evals.sets = chosen_sets(made)
    return made


def check_command(config_name: str, words: list[str]) -> None:
    """Raise one UserError with every wrong override and every impossible combination of this command line."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        try:
            configs = [compose(config_name, point) for point in sweep_points(words)]
        except WRONG as error:
            hydras = [word for word in words if word.lstrip("+~").startswith("hydra")]
            problems = [
                problem for word in words if word not in hydras and (problem := override_problem(config_name, word))
            ] + hydra_problems(config_name, hydras)
            # Where each works alone, Hydra's own words on the combination.
            raise listed(problems or [first_line(error)], "This command cannot run:") from None
    problems = list(dict.fromkeys(problem for config in configs for problem in combination_problems(config)))
    if problems:
        raise listed(problems, "This command cannot run:")


def compose(config_name: str, words: list[str]) -> typed.Config:
    """The config of one run. Hydra lets `+key=value` add any key; here that is an error too."""
    composed = hydra.compose(config_name, words)
    added = set(leaf_keys(composed)) - set(leaf_keys(OmegaConf.structured(typed.Config)))
    if added:
        raise ConfigCompositionException(f"no setting {', '.join(sorted(added))}")
    return to_config(composed)


def sweep_points(words: list[str]) -> list[list[str]]:
    """Command lines that together try every value of every sweep: all first values, then each other one among them.

    Raises HydraException where a word is no override or a sweep has no value.
    """
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # which knows the options of glob(*)
    swept = [
        sweep_values(override) if override.is_sweep_override() else [word]
        for word, override in zip(words, parser.parse_overrides(words), strict=True)
    ]
    firsts = [values[0] for values in swept]
    others = [[*firsts[:i], other, *firsts[i + 1 :]] for i, values in enumerate(swept) for other in values[1:]]
    return [firsts, *others]


def sweep_values(override: Override) -> list[str]:
    """`seed=12,13` as `seed=12` and `seed=13`."""
    values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    if not values:
        raise ConfigCompositionException(f"{override.input_line} has no value to try.")
    return values


def override_problem(config_name: str, word: str) -> str | None:
    """What is wrong with one override taken alone, with the nearest known name; None where nothing is."""
    try:
        for point in sweep_points([word]):
            compose(config_name, point)
    except WRONG as error:
        key, _, value = word.lstrip("+~").partition("=")
        groups = sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir())
        known = leaf_keys(OmegaConf.structured(typed.Config))
        group = key.partition("@")[0]  # prompt@generation.prompt
        if group in groups and value not in options(group):
            wrong = next((one for one in value.split(",") if one not in options(group)), value)
            return f"{word}: no such {group}. Known: {', '.join(options(group))}.{nearest(wrong, options(group))}"
        if key not in (*known, *groups):
            return f"{word}: no setting '{key}'.{nearest(key, [*known, *groups])} `--help` lists all."
        declared = f" ('{key}' is declared as {type_of(key)} in mvp_align/config.py.)" if key in known else ""
        return f"{word}: {first_line(error)}{declared}"
    return None


def hydra_problems(config_name: str, words: list[str]) -> list[str]:
    """What is wrong with the overrides of Hydra itself, which only together make sense: a launcher and its resources."""
    try:
        compose(config_name, words)
    except WRONG as error:
        hint = " `pip install -e '.[slurm]'` brings it." if "launcher/submitit_slurm'" in str(error) else ""
        return [f"{' '.join(words)}: {first_line(error).rstrip('.')}.{hint}"]
    return []


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


def first_line(error: Exception) -> str:
    return str(error.__cause__ or error).splitlines()[0]


def nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)  # at 0.6, `gpu` means `cpu`
    return f" Did you mean '{close[0]}'?" if close else ""


def leaf_keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key in map(str, config):
        node = config._get_node(key)
        if isinstance(node, DictConfig):
            keys += leaf_keys(node, f"{prefix}{key}.")
        else:
            keys.append(f"{prefix}{key}")
    return keys


def type_of(key: str) -> str:
    owner: type = typed.Config
    *parents, name = key.split(".")
    for parent in parents:
        owner = owner.__annotations__[parent]
    declared = owner.__annotations__[name]
    return declared.__name__ if isinstance(declared, type) else str(declared)
