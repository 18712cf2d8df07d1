"""A run pushed to a Hub on loopback by the real library: what arrives, what does not, failures."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer, hub
from huggingface_hub import ModelCard
from omegaconf import OmegaConf

from mvp_align.reporting.html import write_report
from mvp_align.runs.pair_files import read_texts

REPO = "me/values"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub() as started:
        yield started


def push(
    server: HubServer, run: Path, *words: str, token: str = TOKEN
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": token,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",  # whose protocol the server does not speak
        "HF_HOME": str(run.parent / "hf"),
    }
    command = [sys.executable, "-m", "mvp_align.cli", "push", str(run), REPO, *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def settings_of(run: Path, **data: str) -> None:
    """Say that the run was on files of one's own."""
    config = OmegaConf.load(run / "config.yaml")
    config.data.update({"train": "/home/me/pairs.jsonl", "val": None, "test": None, **data})
    OmegaConf.save(config, run / "config.yaml")


def test_what_arrives(server: HubServer, run: Path) -> None:
    done = push(server, run)
    assert done.returncode == 0, done.stderr
    repo = server.repos[REPO]
    assert repo.private and repo.commits == 1
    for path in (run / "adapter").iterdir():
        if path.name != "README.md":
            assert repo.files[path.name] == path.read_bytes(), path.name
    for path in (run / "scores").glob("*.jsonl"):
        assert repo.files[f"scores/{path.name}"] == path.read_bytes()
    assert repo.files["metrics.jsonl"] == (run / "metrics.jsonl").read_bytes()
    card = ModelCard(repo.files["README.md"].decode())
    assert (card.data.license, card.data.model_name) == ("cc-by-4.0", "values")
    assert f'from_pretrained("{REPO}")' in card.text
    listed, _, address = done.stdout.rstrip().rpartition("\n")
    assert address == f"{server.url}/{REPO}/commit/{1:040x}"
    assert all(f"  {name} " in listed for name in repo.files)
    assert not any(name.startswith(("groups", "texts", "checkpoints")) for name in repo.files)
    everything = b"".join(repo.files.values()) + (done.stdout + done.stderr).encode()
    assert TOKEN.encode() not in everything


def test_texts_only_where_asked_for_and_allowed(server: HubServer, run: Path) -> None:
    pair = next(iter(read_texts(run / "texts" / "in_domain.jsonl").values()))
    told = json.dumps(pair.chosen, ensure_ascii=False)[1:60]
    assert push(server, run).returncode == 0
    assert told not in server.repos[REPO].files["report.html"].decode()
    assert push(server, run, "--texts").returncode == 0
    assert told in server.repos[REPO].files["report.html"].decode()
    settings_of(run)
    before = server.repos[REPO].commits
    refused = push(server, run, "--license", "other", "--texts")
    assert refused.returncode == 2 and "do not let the texts be passed on" in refused.stderr
    assert "pairs.jsonl" in refused.stderr and server.repos[REPO].commits == before


def test_a_licence_has_to_be_known(server: HubServer, run: Path) -> None:
    settings_of(run)
    done = push(server, run)
    assert done.returncode == 2 and "--license NAME states it" in done.stderr
    assert "Traceback" not in done.stderr and server.asked == []
    assert push(server, run, "--license", "Apache 2").returncode == 2
    assert push(server, run, "--license", "apache-2.0").returncode == 0
    card = ModelCard(server.repos[REPO].files["README.md"].decode())
    assert card.data.license == "apache-2.0"


def test_a_licence_that_the_hub_does_not_know_is_refused_before_anything_is_made(
    server: HubServer, run: Path
) -> None:
    done = push(server, run, "--license", "mine-1.0")
    assert done.returncode == 2 and server.repos == {}
    assert 'the Hub refuses the card: "license" must be one of [apache-2.0, ' in done.stderr
    assert "--license NAME states another licence." in done.stderr
    assert "half sent" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("stated", "name"), [("ODC-By-1.0", "odc-by"), ("ODbL-1.0", "odbl"), ("PDDL-1.0", "pddl")]
)
def test_a_licence_of_data_goes_by_the_hubs_name(
    server: HubServer, run: Path, stated: str, name: str
) -> None:
    settings_of(run, license=stated)
    done = push(server, run)
    assert done.returncode == 0, done.stderr
    assert ModelCard(server.repos[REPO].files["README.md"].decode()).data.license == name


def test_words_are_no_licence(server: HubServer, run: Path) -> None:
    settings_of(run, license="Proprietary, internal use only")
    done = push(server, run)
    assert done.returncode == 2 and server.asked == []
    assert "Proprietary, internal use only" in done.stderr
    assert "--license NAME states it" in done.stderr


def test_the_report_that_is_sent_names_no_folder_of_this_machine(
    server: HubServer, run: Path
) -> None:
    environment = json.loads((run / "environment.json").read_text("utf-8"))
    environment["command"] = "train.py --hidden-word run.dir=/home/me/secret place/run"
    (run / "environment.json").write_text(json.dumps(environment), "utf-8")
    config = OmegaConf.load(run / "config.yaml")
    config.evals.ufp4 = "/home/me/my data/UF-P-4"
    OmegaConf.save(config, run / "config.yaml")
    notes = json.loads((run / "notes.json").read_text("utf-8"))
    notes["notes"].append("Read from gguf:/home/me/models/a.gguf.")
    (run / "notes.json").write_text(json.dumps(notes), "utf-8")
    own = write_report(run).read_text("utf-8")
    for path in ("/home/me/my data", "/home/me/models", "--hidden-word", str(run.parent.parent)):
        assert path in own, path
    done = push(server, run, "--license", "other")
    assert done.returncode == 0, done.stderr
    sent = server.repos[REPO].files["report.html"].decode()
    assert "/home/me" not in sent and "--hidden-word" not in sent
    for path in absolute_paths(config_and_environment(run)):
        assert path not in sent, path
    assert "ufp4: UF-P-4\n" in sent and "Read from gguf:a.gguf" in sent


def config_and_environment(run: Path) -> list[object]:
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    return [config, json.loads((run / "environment.json").read_text("utf-8"))]


def absolute_paths(value: object) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(absolute_paths, value.values()))
    if isinstance(value, list):
        return set().union(*map(absolute_paths, value))
    return {value} if isinstance(value, str) and re.match(r"(/[^/]+){2}", value) else set()


def test_a_dry_run_asks_nobody(server: HubServer, run: Path) -> None:
    done = push(server, run, "--dry-run")
    assert done.returncode == 0 and server.asked == []
    assert done.stdout.startswith(f"Would send to {REPO} (private if it is new):")
    assert "adapter_model.safetensors" in done.stdout and "no texts (--texts)" in done.stdout


def test_again_sends_nothing_anew(server: HubServer, run: Path) -> None:
    assert push(server, run).returncode == 0
    files = dict(server.repos[REPO].files)
    done = push(server, run)
    assert done.returncode == 0, done.stderr
    assert (server.repos[REPO].files, server.repos[REPO].commits) == (files, 1)
    assert len([asked for asked in server.asked if asked.startswith("PUT")]) == 1


def test_a_public_repository_is_asked_for(server: HubServer, run: Path) -> None:
    assert push(server, run, "--public").returncode == 0
    assert not server.repos[REPO].private
    before = server.repos[REPO].commits
    done = push(server, run, "--license", "mit")
    assert done.returncode == 2 and "there and public, so nothing was sent" in done.stderr
    assert server.repos[REPO].commits == before


@pytest.mark.parametrize(
    ("status", "said"), [(401, "hf auth login"), (403, "may not write"), (500, "try again later")]
)
def test_a_refusal_is_told_and_the_next_try_succeeds(
    server: HubServer, run: Path, status: int, said: str
) -> None:
    server.fail = lambda method, path: status if path == "/api/repos/create" else None
    done = push(server, run)
    assert (done.returncode, server.repos) == (2, {})
    assert f"the Hub refused ({status})" in done.stderr and said in done.stderr
    assert "Traceback" not in done.stderr and TOKEN not in done.stdout + done.stderr
    server.fail = lambda method, path: None
    assert push(server, run).returncode == 0


def test_a_wrong_token_is_a_401(server: HubServer, run: Path) -> None:
    done = push(server, run, token="hf_" + "x" * 34)
    assert done.returncode == 2 and "the Hub refused (401)" in done.stderr


def test_an_upload_that_is_cut_off_leaves_no_commit_and_goes_on(
    server: HubServer, run: Path
) -> None:
    server.fail = lambda method, path: "drop" if "/commit/" in path else None
    done = push(server, run)
    assert done.returncode == 2 and "Nothing is half sent" in done.stderr
    assert "Traceback" not in done.stderr
    assert (server.repos[REPO].files, server.repos[REPO].commits) == ({}, 0)
    server.fail = lambda method, path: None
    assert push(server, run).returncode == 0
    sent = [asked for asked in server.asked if asked.startswith("PUT")]
    assert len(sent) == 1  # the adapter had arrived


def test_no_server_is_told(run: Path) -> None:
    with hub() as server:
        pass
    done = push(server, run)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert server.url in done.stderr


def test_a_token_in_a_file_stops_it(server: HubServer, run: Path) -> None:
    path = run / "adapter" / "chat_template.jinja"
    path.write_text(f"{{# {TOKEN} #}}")
    done = push(server, run)
    assert done.returncode == 2 and server.asked == []
    assert "chat_template.jinja holds what looks like a token" in done.stderr
    assert TOKEN not in done.stderr


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("DONE", "is unfinished"),
        ("adapter", "has no adapter of its own"),
        ("adapter/adapter_model.safetensors", "lacks adapter_model.safetensors"),
        ("adapter/adapter_config.json", "lacks adapter_config.json"),
    ],
)
def test_a_run_that_cannot_be_pushed(server: HubServer, run: Path, gone: str, said: str) -> None:
    path = run / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = push(server, run)
    assert done.returncode == 2 and said in done.stderr and server.asked == []
