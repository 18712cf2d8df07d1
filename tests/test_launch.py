"""The command line reports all mistakes at once, before heavy imports and before writing files."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.launch import CONF_DIR, check_command
from mvp_align.overrides.words import with_lists
from mvp_align.runs.lock import lock

ROOT = Path(__file__).parents[1]
MODELS = (
    "api, deepseek, doubao, gpt4o,"
    " llama2_13b, llama2_13b_chat, llama2_7b, llama2_7b_chat, llama3_2_1b, qwen2_5_0_5b,"
    " qwen2_5_14b, qwen2_5_7b, qwen_14b, qwen_7b, smollm2_135m"
)
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "wandb", "accelerate", "bitsandbytes"}


def problems(*words: str, config_name: str = "train") -> list[str]:
    with pytest.raises(UserError) as caught:
        check_command(config_name, list(words))
    heading, *lines = str(caught.value).splitlines()
    assert heading == "This command cannot run:"
    assert all(line.startswith("  - ") for line in lines)
    return [line.removeprefix("  - ") for line in lines]


def program(*words: str, cwd: Path, script: str = "train.py") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words] if script == "" else [sys.executable, str(ROOT / script), *words],
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def imported(stderr: str) -> set[str]:
    """The modules that `-X importtime` lists."""
    return {
        line.rpartition("|")[2].strip()
        for line in stderr.splitlines()
        if line.startswith("import time:")
    }


def test_a_right_command_passes() -> None:
    check_command(
        "train",
        ["experiment=divervalue_llama2_7b", "train.beta=0.2", "lora.target_modules=[all-linear]"],
    )
    check_command("evaluate", ["adapter=outputs/x/adapter", "evals.sets=[ufp4_sample]"])


def test_all_wrong_overrides_come_in_one_message() -> None:
    assert problems(
        "trian.beta=1",
        "train.betta=3",
        "train.epochs=abc",
        "model=llama",
        "seed=3",
        "data.limit=1.5",
    ) == [
        "trian.beta=1: no setting 'trian.beta'. Did you mean 'train.beta'? `--help` lists all.",
        "train.betta=3: no setting 'train.betta'. Did you mean 'train.beta'? `--help` lists all.",
        (
            "train.epochs=abc: Value 'abc' of type 'str' could not be converted to Float "
            "('train.epochs' is declared as float in mvp_align/config.py.)"
        ),
        f"model=llama: no such model. Known: {MODELS}. Did you mean 'llama2_7b'?",
        (
            "data.limit=1.5: Value '1.5' of type 'float' could not be converted to Integer "
            "('data.limit' is declared as int | None in mvp_align/config.py.)"
        ),
    ]


def test_all_impossible_combinations_come_in_one_message() -> None:
    assert problems(
        "train.batch_size=7",
        "train.micro_batch_size=2",
        "hardware=cpu",
        "hardware.precision=fp16",
        "evals.sets=[ufp5]",
    ) == [
        "evals.sets: 'ufp5' is not one of in_domain, ufp4, ufp4_sample, auto.",
        "train.batch_size=7 is not a multiple of train.micro_batch_size=2: change either.",
        "hardware.precision=fp16 needs a GPU: use fp32 or auto with hardware.device=cpu.",
    ]


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("qqq=1", "qqq=1: no setting 'qqq'. `--help` lists all."),
        (
            "promt=paper",
            "promt=paper: no setting 'promt'. Did you mean 'prompt'? `--help` lists all.",
        ),
        ("foo", "foo: no setting 'foo'. `--help` lists all."),
        ("+foo=1", "+foo=1: no setting 'foo'. `--help` lists all."),
        (
            "++train.betta=1",
            (
                "++train.betta=1: no setting 'train.betta'. Did you mean 'train.beta'? `--help`"
                " lists all."
            ),
        ),
        (
            "recipe=lora_dpoo",
            "recipe=lora_dpoo: no such recipe. Known: lora_dpo, lora_sft. Did you mean 'lora_dpo'?",
        ),
        ("recipe=evaluate", "recipe=evaluate: no such recipe. Known: lora_dpo, lora_sft."),
        ("hardware=gpu", "hardware=gpu: no such hardware. Known: auto, cpu, cuda, fsdp, zero2."),
        (
            "prompt=",
            (
                "prompt=: no such prompt. Known: auto, chat, history, paa, paper, preference,"
                " question."
            ),
        ),
        (
            "data=[smple]",
            (
                "data=[smple]: no such data. Known: divervalue, files, mvpbench, sample,"
                " sample_several. Did you mean 'sample'?"
            ),
        ),
        (
            "experiment=null",
            (
                "experiment=null: no such experiment. Known: demo, divervalue_llama2_13b,"
                " divervalue_llama2_7b, divervalue_llama2_7b_person, divervalue_qwen_14b,"
                " divervalue_qwen_7b, mvpbench_llama2_7b, person."
            ),
        ),
        (
            "train.beta=",
            (
                "train.beta=: Value '' of type 'str' could not be converted to Float "
                "('train.beta' is declared as float in mvp_align/config.py.)"
            ),
        ),
        (
            "train.micro_batch_size=5.5",
            (
                "train.micro_batch_size=5.5: Value '5.5' of type 'float' is incompatible with type"
                " hint 'Union[int, str]' ('train.micro_batch_size' is declared as int | str in"
                " mvp_align/config.py.)"
            ),
        ),
        (
            "train.disable_dropout=perhaps",
            (
                "train.disable_dropout=perhaps: Value 'perhaps' is not a valid bool (type str)"
                " ('train.disable_dropout' is declared as bool in mvp_align/config.py.)"
            ),
        ),
        (
            "run.name=${nosuch}",
            (
                "run.name=${nosuch}: Interpolation key 'nosuch' not found "
                "('run.name' is declared as str in mvp_align/config.py.)"
            ),
        ),
    ],
)
def test_one_wrong_override(word: str, problem: str) -> None:
    assert problems(word) == [problem]


@pytest.mark.parametrize(
    ("word", "right"),
    [
        ("run.name=a=b", """'run.name="a=b"'"""),
        ("adapter=outputs/lr=1e-4/adapter", """'adapter="outputs/lr=1e-4/adapter"'"""),
        ("data.train=/x/{a} (1).json", """'data.train="/x/{a} (1).json"'"""),
        ("data.train=~/pairs.json", """'data.train="/home/me/pairs.json"'"""),
        ("prompt.template=Hi, {question}", """'prompt.template="Hi, {question}"'"""),
        ("run.name=it's", """'run.name="it'"'"'s"'"""),
        ('run.name=a"b', """'run.name="a\\"b"'"""),
        ('run.name="x', """'run.name="x"'"""),
        ("run.name=été", """'run.name="été"'"""),
    ],
)
def test_a_value_that_needs_quotes_is_shown_with_them(
    word: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (problem,) = problems(word)
    assert problem.startswith(f"{word}: ") and problem.endswith(
        f". Quote the value for Hydra, and the whole for the shell: {right}"
    )
    (corrected,) = shlex.split(right)
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        composed = hydra.compose("train", [corrected, "model.id=x"])
    key, _, value = word.partition("=")
    assert OmegaConf.select(composed, key) == value.replace("~", "/home/me").removeprefix('"')


def test_commas_are_a_sweep_only_where_one_is_asked_for(tmp_path: Path) -> None:
    done = program("run.name=a,b", cwd=tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[2]
        == "  - run.name=a,b: values with commas between them are a sweep, one run each: add -m. As"
        " one text: 'run.name=\"a,b\"'"
    )
    check_command("train", ["seed=12,13"])


@pytest.mark.parametrize(
    ("word", "single", "swept"),
    [
        ("lora.target_modules=all-linear", "[all-linear]", "[all-linear]"),
        ("lora.target_modules=q_proj", "[q_proj]", "[q_proj]"),
        ("lora.target_modules=q_proj,v_proj", "[q_proj,v_proj]", "[q_proj],[v_proj]"),
        ("lora.target_modules='q_proj,v_proj'", "[q_proj,v_proj]", "[q_proj,v_proj]"),
        ("lora.target_modules=[q_proj,v_proj]", "[q_proj,v_proj]", "[q_proj,v_proj]"),
        ("lora.target_modules=[q_proj,v_proj],[all-linear]", *["[q_proj,v_proj],[all-linear]"] * 2),
        ("evals.sets=ufp4", "[ufp4]", "[ufp4]"),
        ("evals.metrics=opa,paa", "[opa,paa]", "[opa],[paa]"),
        ("train.loss_weights=1,0.5", "[1,0.5]", "[1],[0.5]"),
        ("train.loss_weights=null", "null", "null"),
        ("tracking.tags=", "", ""),
        ("run.name=a,b", "a,b", "a,b"),
    ],
)
def test_a_list_may_be_written_as_names_alone(word: str, single: str, swept: str) -> None:
    key = word.partition("=")[0]
    assert with_lists(["train.py", word]) == ["train.py", f"{key}={single}"]
    assert with_lists(["train.py", "-m", word]) == ["train.py", "-m", f"{key}={swept}"]


def test_names_alone_are_used_as_given(tmp_path: Path) -> None:
    done = program(
        "--cfg",
        "job",
        "lora.target_modules=all-linear",
        "evals.sets=in_domain,ufp4_sample",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "  target_modules:\n  - all-linear\n" in done.stdout
    assert "  sets:\n  - in_domain\n  - ufp4_sample\n" in done.stdout


def test_a_list_that_is_not_closed_is_named() -> None:
    (problem,) = problems("lora.target_modules=[q_proj")
    assert problem.startswith("lora.target_modules=[q_proj: ")
    assert problem.endswith(
        "('lora.target_modules' is declared as list[str] in mvp_align/config.py.)"
    )


def test_wrong_and_right_words_do_not_hide_each_other() -> None:
    found = problems(
        "seed=x", "train.beta=0.1", "modle=llama2_7b", "experiment=demo", "prompt=papr"
    )
    assert [problem.partition(":")[0] for problem in found] == [
        "seed=x",
        "modle=llama2_7b",
        "prompt=papr",
    ]


def test_evaluate_is_checked_against_its_own_config() -> None:
    assert problems("data=files", "adaptor=x", config_name="evaluate") == [
        "adaptor=x: no setting 'adaptor'. Did you mean 'adapter'? `--help` lists all."
    ]
    assert problems("data=files", config_name="evaluate") == [
        "data.test is not set: data=files data.test=PATH data.format=FORMAT, or evals.sets=[ufp4]"
        " evals.ufp4=FOLDER."
    ]
    check_command("evaluate", ["data=files", "evals.sets=[ufp4_sample]"])


@pytest.mark.parametrize(
    "words",
    [
        ["seed=12,13"],
        ["seed=range(1,4)", "train.beta=0.1,0.3"],
        ["model=smollm2_135m,qwen2_5_0_5b"],
        ["prompt=glob(p*)"],
        ["lora.target_modules=[q_proj,v_proj],[all-linear]"],
        ["recipe=lora_dpo,lora_sft", "evals=in_domain"],
    ],
)
def test_sweeps_pass(words: list[str]) -> None:
    check_command("train", words)


def test_swept_values_join_the_default_name_where_it_does_not_hold_them() -> None:
    def added(*words: str, name: str = "train") -> list[str]:
        return check_command(name, [*words]).name

    assert added("seed=12,13", "prompt=paper,chat", "train.beta=0.3") == []
    assert added("model.id=/a/m,/b/m") == []
    assert added("adapter=a,b", name="evaluate") == []
    assert added("seed=12,13", "train.beta=0.1,0.3", "evals=in_domain,standard") == [
        "run.name=${default_name:train.beta,evals}"
    ]
    assert added("train.beta=0.1,0.3", "run.name='mine-${train.beta}'") == []


@pytest.mark.parametrize(
    ("words", "folder", "runs"),
    [
        (["experiment=demo", "seed=12,13"], "outputs/demo", "seed=12 and seed=13"),
        (
            ["train.beta=0.1,0.3", "run.name=mine"],
            "outputs/mine",
            "train.beta=0.1 and train.beta=0.3",
        ),
        (
            ["data.limit=1,11", "seed=1,11", "run.dir='/x/${data.limit}${seed}'"],
            "/x/111",
            "data.limit=1 seed=11 and data.limit=11 seed=1",
        ),
        (
            ["train.beta=0.1,0.10"],
            "outputs/lora_dpo-smollm2_135m-sample-paper-beta_0.1-12",
            "train.beta=0.1 and train.beta=0.1",
        ),
        (
            ["experiment=divervalue_llama2_7b,demo", "seed=12,13"],
            "outputs/demo",
            "experiment=demo seed=12 and experiment=demo seed=13",
        ),
    ],
)
def test_runs_of_a_sweep_that_share_a_folder_are_refused(
    words: list[str], folder: str, runs: str
) -> None:
    (problem,) = problems(*words)
    assert problem.startswith(f"2 runs of this sweep would share {folder}, such as {runs}: ")
    assert "let run.name tell them apart" in problem


def test_a_launcher_s_overrides_are_taken_together() -> None:
    launcher = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu"]
    check_command("train", ["seed=12,13", *launcher, "hydra.launcher.timeout_min=600"])
    (problem,) = problems("seed=x", *launcher)
    assert problem.startswith("seed=x: ")
    assert problems(*launcher, "hydra.launcher.gress=1") == [
        f"{' '.join(launcher)} hydra.launcher.gress=1: Key 'gress' not in 'SlurmQueueConf'."
    ]
    (problem,) = problems("hydra/launcher=slrum")
    assert (
        problem == "hydra/launcher=slrum: In 'hydra/config': Could not find 'hydra/launcher/slrum'."
    )


def test_every_value_of_a_sweep_is_checked() -> None:
    assert problems("seed=12,foo", "model=llama2_7b,llama2_8b", "prompt=paper,chat") == [
        (
            "seed=12,foo: Value 'foo' of type 'str' could not be converted to Integer "
            "('seed' is declared as int in mvp_align/config.py.)"
        ),
        f"model=llama2_7b,llama2_8b: no such model. Known: {MODELS}. Did you mean 'llama2_7b'?",
    ]
    assert problems("train.batch_size=8,7,6,5", "train.micro_batch_size=2", "seed=1,2") == [
        f"train.batch_size={size} is not a multiple of train.micro_batch_size=2: change either."
        for size in (7, 5)
    ]
    assert problems("seed=range(3,1)") == [
        "seed=range(3,1): seed=range(3,1) has no value to try. ('seed' is declared as int in"
        " mvp_align/config.py.)"
    ]


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_is_quick_and_imports_nothing_heavy(script: str, tmp_path: Path) -> None:
    started = time.monotonic()
    done = program("-X", "importtime", str(ROOT / script), "--help", cwd=tmp_path, script="")
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr[-2000:]
    assert "hydra" in imported(done.stderr)
    assert not imported(done.stderr) & HEAVY
    assert seconds < 20  # 1.3 s on a free CPU; a loaded one must not fail the suite
    for shown in (
        "python train.py",
        f"model: {MODELS}",
        "prompt: auto, chat, history, paa, paper, preference, question",
        "beta: 0.1",
    ):
        assert shown in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_prints_the_composed_config(tmp_path: Path) -> None:
    done = program(
        "--cfg", "job", "train.beta=0.25", "experiment=divervalue_llama2_7b", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for line in ("recipe: lora_dpo", "  id: meta-llama/Llama-2-7b-hf", "  beta: 0.25", "seed: 12"):
        assert line in lines
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_wrong_overrides_end_plainly_and_write_nothing(script: str, tmp_path: Path) -> None:
    done = program("train.betta=1", "seed=x", "+foo=1", "model=nosuch", cwd=tmp_path, script=script)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[1] == "This command cannot run:"
    assert [line.split(":")[0] for line in done.stderr.splitlines()[2:]] == [
        "  - train.betta=1",
        "  - seed=x",
        "  - +foo=1",
        "  - model=nosuch",
    ]
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train.batch_size=9", "train.micro_batch_size=2"],
            "train.batch_size=9 is not a multiple of train.micro_batch_size=2: change either.",
        ),
        (["-m", "model=smollm2_135m,nosuch"], "model=smollm2_135m,nosuch: no such model."),
        (
            ["-m", "train.batch_size=8,9", "train.micro_batch_size=2"],
            "train.batch_size=9 is not a multiple of train.micro_batch_size=2",
        ),
        (["data=files"], "data.train is not set"),
    ],
)
def test_impossible_combinations_end_plainly_and_write_nothing(
    words: list[str], message: str, tmp_path: Path
) -> None:
    done = program(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_job_ends_plainly(tmp_path: Path) -> None:
    """A UserError raised while the job runs, through a job that does nothing else."""
    script = tmp_path / "job.py"
    script.write_text(
        "from mvp_align.errors import UserError\n"
        "from mvp_align.launch import run\n"
        "def job(config):\n    raise UserError(f'no luck with seed {config.seed}')\n"
        "run('train', job)\n"
    )
    done = program(str(script), "seed=99", cwd=tmp_path, script="")
    assert (done.returncode, done.stderr) == (2, "\nno luck with seed 99\n")
    assert [path.name for path in tmp_path.iterdir()] == ["job.py"]


def test_a_sweep_runs_each_value_and_a_finished_run_is_no_error(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "from pathlib import Path\n"
        "from mvp_align.launch import run\n"
        "from mvp_align.errors import AlreadyDone\n"
        "def job(config):\n"
        "    print('ran', config.run.name, type(config).__name__)\n"
        "    if config.seed == 12:\n        raise AlreadyDone(Path(config.run.dir))\n"
        "run('train', job)\n"
    )
    done = program(str(script), "-m", "seed=12,13", cwd=tmp_path, script="")
    assert done.returncode == 0, done.stderr
    names = [f"lora_dpo-smollm2_135m-sample-paper-{seed}" for seed in (12, 13)]
    said = [line for line in done.stdout.splitlines() if line.startswith(("Run folder", "ran"))]
    assert said == [line for n in names for line in (f"Run folder: outputs/{n}", f"ran {n} Config")]
    assert (
        f"outputs/{names[0]} is DONE. To run it again: run.on_exists=overwrite, or another"
        " run.name." in done.stdout
    )


LISTING = (
    "from pathlib import Path\n"
    "from mvp_align.launch import run\n"
    "def job(config):\n"
    "    Path(config.run.dir).mkdir(parents=True)\n"
    "    Path(config.run.dir, 'beta').write_text(f'{config.train.beta} {config.evals.sets}')\n"
    "if __name__ == '__main__':\n    run('train', job)\n"
)


@pytest.mark.parametrize(
    "launcher", ["basic", pytest.param("submitit_local", marks=pytest.mark.cluster)]
)
def test_each_run_of_a_sweep_has_its_folder(launcher: str, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(LISTING)
    swept = ["train.beta=0.1,0.3", "evals=in_domain,standard"]
    done = program("job.py", "-m", f"hydra/launcher={launcher}", *swept, cwd=tmp_path, script="")
    assert done.returncode == 0, done.stderr
    found = {path.parent.name: path.read_text() for path in (tmp_path / "outputs").glob("*/beta")}
    sets = {"in_domain": ["in_domain"], "standard": ["in_domain", "ufp4_sample"]}
    assert found == {
        f"lora_dpo-smollm2_135m-sample-paper-beta_{beta}-evals_{evals}-12": f"{beta} {sets[evals]}"
        for beta in ("0.1", "0.3")
        for evals in sets
    }


def run_folder(folder: Path, compose: Callable[..., Config], *words: str) -> Path:
    config = compose(*words, f"run.dir={folder}")
    folder.mkdir()
    (folder / "config.yaml").write_text(
        OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)
    )
    return folder


def test_done_is_reported_before_heavy_imports(
    tmp_path: Path, compose: Callable[..., Config]
) -> None:
    words = ["train.beta=0.2", "data=files", "data.train=none.jsonl"]
    folder = run_folder(tmp_path / "run", compose, *words)
    (folder / "DONE").touch()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    spent = os.times()
    done = program(
        "-X",
        "importtime",
        str(ROOT / "train.py"),
        *words,
        f"run.dir={folder}",
        cwd=tmp_path,
        script="",
    )
    now = os.times()
    assert (done.returncode, done.stdout) == (
        0,
        f"{folder} is DONE. To run it again: run.on_exists=overwrite, or another run.name.\n",
    )
    assert not imported(done.stderr) & HEAVY
    # 1.2 s on a free CPU, of at most 2; other processes on the CPU slow this one down, in its own
    # time as well.
    assert now.children_user - spent.children_user < 6
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_another_run_in_the_folder_is_reported_before_heavy_imports(
    state: str, tmp_path: Path, compose: Callable[..., Config]
) -> None:
    folder = run_folder(tmp_path / "run", compose)
    if state == "finished":
        (folder / "DONE").touch()
    words = [f"run.dir={folder}", "train.beta=0.3", "adapter=a"]
    done = program("-X", "importtime", str(ROOT / "train.py"), *words, cwd=tmp_path, script="")
    assert (done.returncode, done.stdout) == (2, "")
    assert not imported(done.stderr) & HEAVY
    assert (
        f"holds {'a finished' if state == 'finished' else 'an unfinished'} run with other settings."
        in done.stderr
    )
    assert "  - adapter: None there, a now\n  - train.beta: 0.1 there, 0.3 now\n" in done.stderr


def test_a_folder_in_use_is_reported_before_loading(
    tmp_path: Path, compose: Callable[..., Config]
) -> None:
    folder = run_folder(tmp_path / "run", compose)
    lock(folder)
    done = program(f"run.dir={folder}", cwd=tmp_path)
    assert done.returncode == 2
    assert f"{folder} is in use by process {os.getpid()} on " in done.stderr


def test_evaluate_takes_no_recipe() -> None:
    with pytest.raises(UserError, match=r"recipe=lora_sft: evaluate has one job"):
        check_command("evaluate", ["recipe=lora_sft"])
