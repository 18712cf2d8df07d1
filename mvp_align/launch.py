"""From the command line to a typed config, reporting all mistakes at once.

Hydra stops at the first wrong override. So `check_command` also composes each override separately,
and each value of a sweep, to list all mistakes. Then it asks `mvp_align.validate` for impossible
combinations. Nothing here imports torch.
"""

import difflib
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mvp_align import config as typed
from mvp_align.data.sets import chosen_sets
from mvp_align.errors import AlreadyDone, UserError, combined_error
from mvp_align.modeling.adapter_folder import adopt_adapter_lora
from mvp_align.overrides import sweeps
from mvp_align.overrides.adapter_run import adopt_run, adoption_line
from mvp_align.overrides.inert import inert_settings
from mvp_align.overrides.search_path import search_own_config
from mvp_align.overrides.sweeps import name_override, parse_overrides, shared_folders, sweep_points
from mvp_align.overrides.words import quote_override, sweep_hint, type_of, with_lists
from mvp_align.runs.run_folder import check_folder
from mvp_align.runtime.folders import (
    CONF_DIR,
    config_groups,
    config_options,
    load_recipe,
    own_metric_files,
    replaced_files,
)
from mvp_align.runtime.libraries import find_home, set_up_libraries
from mvp_align.runtime.naming import leaf_keys, name_by_content
from mvp_align.runtime.preemption import EXIT_CODE, Preempted, install_signal_handlers
from mvp_align.runtime.processes import broadcast_from_main, leave_group
from mvp_align.runtime.recipes import recipe_problem
from mvp_align.validate import combination_problems

# ValueError is what Hydra raises for `experiment=null`
CONFIG_ERRORS = (HydraException, OmegaConfBaseException, ValueError)

LOST_PEER_WORDS = (
    "by peer",
    "Connection refused",
    "Socket Timeout",
    "NCCL communicator was aborted",
)
"""Errors of gloo and NCCL in the remaining processes after one has died."""


@dataclass(frozen=True, slots=True)
class Command:
    """A valid command line."""

    name: list[str]
    """Override of a sweep's `run.name` that distinguishes its runs, if needed."""
    configs: list[typed.Config]
    """Configs that together cover every value of a sweep."""
    remarks: list[str]


def run_recipe(config: typed.Config) -> None:
    load_recipe(config.recipe).main(config)


def run(config_name: str, job: Callable[[typed.Config], None] = run_recipe) -> None:
    """Check the command line against `conf/<config_name>.yaml`, then let Hydra run `job`.

    A sweep runs it once per value. A user's mistake exits with code 2 and a message without a
    traceback, a stop request with 85.
    """

    def composed(config: DictConfig) -> None:
        # set up here, because a sweep launcher may run this in a new process
        set_up_libraries()
        install_signal_handlers()
        try:
            adopt_run(config_name, config, HydraConfig.get().overrides.task)
            made = to_config(config)
            check_run_folder(made)
            if not rank() and not made.train.dry_run:
                print(f"Run folder: {made.run.dir}")
            job(made)
        except AlreadyDone as done:
            if not rank():
                print(done)
        except Preempted as asked:
            if not rank():
                print(
                    f"\nStopped ({asked}). What was done is kept: the same command again goes on.",
                    file=sys.stderr,
                )
            sys.exit(EXIT_CODE)
        except UserError as error:
            _stop(error, rank())
        except RuntimeError as error:
            if not any(words in str(error) for words in LOST_PEER_WORDS):
                raise
            print(
                f"\n[process {rank()}] lost another process, whose own message says why.",
                file=sys.stderr,
            )
            sys.exit(1)

    search_own_config()  # here too: --help lists presets without a check
    sys.argv = with_lists(sys.argv)
    words = get_args_parser().parse_args()
    if words.help or words.hydra_help or _prepared(config_name, words):
        start = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)
        try:
            start(composed)()
        except SystemExit as end:
            if end.code == EXIT_CODE:
                leave_group()
            raise
        leave_group()


def _prepared(config_name: str, words: Namespace) -> bool:
    """Check the command line, and complete a sweep's. Returns False if its run is already done.

    Exits with 2 for a mistake.
    """
    alone = not words.multirun and _processes() == 1
    try:
        find_home()
        command = check_command(config_name, words.overrides, multirun=words.multirun)
        if alone and not (words.cfg or words.info):
            # check early, because starting Hydra takes as long as everything before
            check_run_folder(command.configs[0])
    except AlreadyDone as done:
        print(done)
        return False
    except UserError as error:
        _stop(error) if not rank() else sys.exit(2)  # all processes find the same mistake
    if not rank():
        for remark in command.remarks:
            print(remark, file=sys.stderr if words.cfg else sys.stdout)
    if words.multirun and command.name:
        place = sys.argv.index(words.overrides[0])  # argparse expects overrides to be adjacent
        sys.argv[place:place] = command.name
    return True


def check_run_folder(config: typed.Config) -> None:
    """Check the run folder before loading data and models.

    Does it hold this run, finished, or another run, or is another process using it? A single
    process finds out without torch. Several processes agree on the answer, because a file system
    may tell them different things.
    """
    if config.train.dry_run:
        return
    adopt_adapter_lora(config)
    look = partial(check_folder, Path(config.run.dir), config)
    if _processes() == 1:
        look()
        return
    from mvp_align.modeling.hardware import resolve_hardware

    resolve_hardware(config.hardware)  # must come first, because it decides on devices
    broadcast_from_main(look)


def _processes() -> int:
    return _number_in("WORLD_SIZE", 1)


def rank() -> int:
    """Return this process's rank in a distributed run. Rank 0 prints for all."""
    return _number_in("RANK", 0)


def _number_in(variable: str, default: int) -> int:
    """Return a variable as a number.

    `mvp_align.runtime.variables` reports values that are not one.
    """
    number = os.environ.get(variable, "")
    return int(number) if number.isdecimal() else default


def _stop(error: UserError, rank: int = 0) -> NoReturn:
    print(f"\n[process {rank}] {error}" if rank else f"\n{error}", file=sys.stderr)
    sys.exit(2)


def to_config(config: DictConfig) -> typed.Config:
    """Convert the config to dataclasses, resolving interpolations and `evals.sets=[auto]`."""
    name_by_content(config)
    made = OmegaConf.to_object(config)
    assert isinstance(made, typed.Config)
    made.evals.sets = chosen_sets(made)
    return made


def check_command(config_name: str, words: list[str], *, multirun: bool = True) -> Command:
    """Return what this command line stands for.

    Raises one UserError with every wrong override, impossible combination, setting without effect
    and shared folder, and with sweeps if `multirun` is not set.
    """
    search_own_config()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        try:
            composed = [_compose(config_name, point) for point in sweep_points(words)]
            configs = [to_config(one) for one in composed]
            keys = [word.get_key_element().lstrip("+~") for word in parse_overrides(words)]
            name = name_override(words, composed)
            shared = shared_folders(config_name, [*words, *name]) if len(composed) > 1 else []
        except CONFIG_ERRORS as error:
            hydras = [word for word in words if word.lstrip("+~").startswith("hydra")]
            problems = [
                problem
                for word in words
                if word not in hydras and (problem := _override_problem(config_name, word))
            ] + _hydra_problems(config_name, hydras)
            # if each works alone, use Hydra's message on the combination
            raise combined_error(
                problems or [_first_line(error)], "This command cannot run:"
            ) from None
        swept = [sweep_hint(word) for word in words if len(sweep_points([word])) > 1]
    if swept and not multirun and "hydra.mode=MULTIRUN" not in words:
        raise combined_error(swept, "This command cannot run:")
    refused, notes = inert_settings(keys, configs)
    problems = list(
        dict.fromkeys(problem for config in configs for problem in combination_problems(config))
    )
    if problems + refused + shared:
        raise combined_error(problems + refused + shared, "This command cannot run:")
    return Command(name, configs, notes + _origins(config_name, composed, words))


def _origins(config_name: str, composed: list[DictConfig], words: list[str]) -> list[str]:
    """Where things come from that no word of the command names."""
    lines = [adoption_line(config_name, one, words) for one in composed]
    replaced = replaced_files()
    if replaced:
        lines.append(f"Taken from this folder, not from the package: {', '.join(replaced)}.")
    if own := own_metric_files():
        lines.append(f"Metrics of your own: {', '.join(f'metrics/{path.name}' for path in own)}.")
    return list(dict.fromkeys(line for line in lines if line))


def _compose(config_name: str, words: list[str]) -> DictConfig:
    """Compose the config of one run. Hydra lets `+key=value` add any key; here that is an error."""
    composed = sweeps.compose(config_name, words)
    added = set(leaf_keys(composed)) - set(leaf_keys(OmegaConf.structured(typed.Config)))
    if added:
        raise ConfigCompositionException(f"no setting {', '.join(sorted(added))}")
    if config_name != "train":
        if composed.recipe != config_name:
            raise ConfigCompositionException(f"{config_name} has one job. train.py takes a recipe.")
    elif problem := recipe_problem(composed.recipe):
        raise ConfigCompositionException(problem)
    return composed


def _override_problem(config_name: str, word: str) -> str | None:
    """Return what is wrong with a single override, with the nearest known name, or None."""
    try:
        for point in sweep_points([word]):
            to_config(_compose(config_name, point))
    except CONFIG_ERRORS as error:
        key, _, value = word.lstrip("+~").partition("=")
        groups = config_groups()
        known = [*leaf_keys(OmegaConf.structured(typed.Config))]
        group = key.partition("@")[0]  # like prompt@generation.prompt
        options = config_options(group)
        if group in groups and value not in options:
            wrong = next((one for one in value.split(",") if one not in options), value)
            return (
                f"{word}: no such {group}. Known: {', '.join(options)}.{_nearest(wrong, options)}"
            )
        if key not in (*known, *groups):
            return (
                f"{word}: no setting '{key}'.{_nearest(key, [*known, *groups])} `--help` lists all."
            )
        quoted = quote_override(key, value)
        if (
            isinstance(error, OverrideParseException)
            and key in known
            and _composes(config_name, quoted)
        ):
            shown = shlex.quote(quoted)
            return (
                f"{word}: {_first_line(error)}. Quote the value for Hydra, and the whole for the"
                f" shell: {shown}"
            )
        declared = (
            f" ('{key}' is declared as {type_of(key)} in mvp_align/config.py.)"
            if key in known and key != "recipe"
            else ""
        )
        return f"{word}: {_first_line(error)}{declared}"
    return None


def _composes(config_name: str, word: str) -> bool:
    try:
        _compose(config_name, [word])
    except CONFIG_ERRORS:
        return False
    return True


def _hydra_problems(config_name: str, words: list[str]) -> list[str]:
    """Check overrides of Hydra itself together, such as a launcher and its resources."""
    try:
        to_config(_compose(config_name, words))
    except CONFIG_ERRORS as error:
        hint = (
            " `pip install 'mvp-align[slurm]'` brings it."
            if "launcher/submitit_slurm'" in str(error)
            else ""
        )
        return [f"{' '.join(words)}: {_first_line(error).rstrip('.')}.{hint}"]
    return []


def _first_line(error: Exception) -> str:
    return str(error.__cause__ or error).splitlines()[0]


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)  # at 0.6, `gpu` matches `cpu`
    return f" Did you mean '{close[0]}'?" if close else ""
