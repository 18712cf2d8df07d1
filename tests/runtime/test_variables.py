"""Libraries' environment variables are obeyed, or refused if they contradict a setting."""

import os

import pytest

from mvp_align.config import Config, Data, Hardware, Model, Prompt
from mvp_align.launch import rank
from mvp_align.modeling.launcher import SHARDING, launched_precision
from mvp_align.runtime.watching import Tracking
from mvp_align.tracking.variables import trackio_mode, wandb_mode, wandb_project
from mvp_align.validate import variable_problems

PROCESSES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
PREFIXES = (
    *PROCESSES,
    "WANDB_",
    "TRACKIO_",
    "ACCELERATE_",
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        monkeypatch.delenv(name)


def problems(tracking: Tracking | None = None, hardware: Hardware | None = None) -> list[str]:
    return variable_problems(
        Config(
            recipe="lora_dpo",
            model=Model("m", "m"),
            data=Data("d"),
            prompt=Prompt("p", "{question}"),
            tracking=tracking or Tracking(),
            hardware=hardware or Hardware(),
        )
    )


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": ""}, "offline"),
        ({"WANDB_API_KEY": "x"}, "online"),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": ""}, "online"),
        ({"WANDB_API_KEY": "x", "WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_API_KEY": "x", "WANDB_DISABLED": "false"}, "online"),
        ({"WANDB_MODE": "online", "WANDB_DISABLED": "1"}, "disabled"),
        ({"WANDB_MODE": "online"}, "online"),
    ],
)
def test_auto_is_what_wandb_s_own_variables_say(
    variables: dict[str, str], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode("auto") == mode
    assert (wandb_mode("online"), wandb_mode("offline")) == ("online", "offline")
    assert problems() == []


@pytest.mark.parametrize(
    ("tracking", "variable", "value", "setting"),
    [
        (Tracking(mode="online"), "WANDB_MODE", "offline", "tracking.mode=online"),
        (Tracking(mode="online"), "WANDB_MODE", "disabled", "tracking.mode=online"),
        (Tracking(mode="offline"), "WANDB_MODE", "online", "tracking.mode=offline"),
        (Tracking(mode="offline"), "WANDB_DISABLED", "true", "tracking.mode=offline"),
        (Tracking(project="a"), "WANDB_PROJECT", "b", "tracking.project=a"),
        (Tracking(entity="a"), "WANDB_ENTITY", "b", "tracking.entity=a"),
        (Tracking(group="a"), "WANDB_RUN_GROUP", "b", "tracking.group=a"),
        (Tracking(tags=["a", "b"]), "WANDB_TAGS", "a", "tracking.tags=[a,b]"),
        (Tracking(), "WANDB_LOG_MODEL", "false", "tracking.artifacts=true"),
        (Tracking(artifacts=False), "WANDB_LOG_MODEL", "end", "tracking.artifacts=false"),
        (Tracking("trackio", "offline"), "TRACKIO_SPACE_ID", "me/space", "tracking.mode=offline"),
        (Tracking("trackio", "offline"), "TRACKIO_SERVER_URL", "http://x", "tracking.mode=offline"),
    ],
)
def test_a_setting_and_a_variable_that_differ_are_refused(
    tracking: Tracking, variable: str, value: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert problems(tracking) == [
        f"{setting}, and {variable}={value} says otherwise: leave the one out, or unset the other."
    ]
    assert problems(Tracking("none")) == []  # where nothing is tracked, they decide nothing


@pytest.mark.parametrize(
    ("tracking", "variables"),
    [
        (Tracking(mode="offline"), {"WANDB_MODE": "dryrun"}),
        (Tracking(project="a", entity="e", group="g", tags=["a", "b"]), {
            "WANDB_PROJECT": "a", "WANDB_ENTITY": "e", "WANDB_RUN_GROUP": "g", "WANDB_TAGS": "a, b"
        }),
        (Tracking(), {"WANDB_LOG_MODEL": "checkpoint", "WANDB_WATCH": "false",
        "WANDB_RESUME": "allow"}),
        (Tracking("trackio"), {"TRACKIO_SPACE_ID": "me/space"}),
    ],
)  # fmt: skip
def test_the_same_said_twice_is_no_contradiction(
    tracking: Tracking, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert problems(tracking) == []


@pytest.mark.parametrize(
    ("tracking", "variables", "said"),
    [
        (
            Tracking(),
            {"WANDB_MODE": "shared"},
            "WANDB_MODE=shared: must be one of online, run, offline",
        ),
        (
            Tracking(),
            {"WANDB_RESUME": "never"},
            "WANDB_RESUME=never: a run that goes on keeps its own id",
        ),
        (Tracking(), {"WANDB_WATCH": "all"}, "WANDB_WATCH=all: no gradients"),
        (
            Tracking("trackio", "online"),
            {},
            "tracking.mode=online: trackio goes where TRACKIO_SPACE_ID or",
        ),
        (
            Tracking("trackio"),
            {"TRACKIO_SPACE_ID": "a/b", "HF_HUB_OFFLINE": "1"},
            "HF_HUB_OFFLINE=1 keeps trackio from",
        ),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    tracking: Tracking, variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (problem,) = problems(tracking)
    assert problem.startswith(said)


def test_where_runs_go(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wandb_project(Tracking()) == "mvp-align"
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    assert wandb_project(Tracking()) == "theirs"
    assert (trackio_mode("auto"), trackio_mode("online")) == ("offline", "online")
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://x")
    assert (trackio_mode("auto"), trackio_mode("offline")) == ("online", "offline")


def test_what_accelerate_launch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched_precision() is None
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert (launched_precision(), problems(hardware=Hardware(precision="bf16"))) == (None, [])
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert (launched_precision(), problems(), problems(hardware=Hardware(precision="bf16"))) == (
        "bf16",
        [],
        [],
    )
    (problem,) = problems(hardware=Hardware(precision="fp32"))
    assert problem.startswith(
        "hardware.precision=fp32, and ACCELERATE_MIXED_PRECISION=bf16 says otherwise"
    )
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    assert problems() == [
        "ACCELERATE_MIXED_PRECISION=fp8: must be bf16, fp16 or no (hardware.precision)."
    ]


@pytest.mark.parametrize(
    ("variable", "value"), [("ACCELERATE_USE_CPU", "true"), ("CUDA_VISIBLE_DEVICES", "")]
)
def test_a_gpu_that_a_variable_takes_away_is_not_asked_for(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert problems() == []
    (problem,) = problems(hardware=Hardware(device="cuda"))
    assert problem.startswith(f"hardware.device=cuda, and {variable}={value} says otherwise")


@pytest.mark.parametrize(("variable", "sharding"), SHARDING.items())
def test_sharding_comes_from_one_side(
    variable: str, sharding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "true")
    (problem,) = problems()
    assert problem.startswith(f"{variable}=true, and hardware.sharding=none: ")
    if sharding:
        assert problems(hardware=Hardware(sharding=sharding)) == []


def test_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    assert problems() == []
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    (problem,) = problems()
    assert problem.startswith("ACCELERATE_DYNAMO_BACKEND=INDUCTOR: models are not compiled")


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        ({}, None),
        ({"RANK": "0"}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}, None),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "MASTER_ADDR"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, "LOCAL_RANK"),
        ({"RANK": "1"}, "WORLD_SIZE, LOCAL_RANK, MASTER_ADDR"),
        ({"LOCAL_RANK": "0"}, "RANK, WORLD_SIZE, MASTER_ADDR"),
    ],
)
def test_processes_are_told_of_each_other_in_full(
    told: dict[str, str], missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    if missing is None:
        assert problems() == []
    else:
        (problem,) = problems()
        assert f", but no {missing}: processes of one run find each other" in problem


def test_a_rank_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    assert problems() == ["RANK=first: a whole number belongs there."]
    assert rank() == 0  # which tells it
