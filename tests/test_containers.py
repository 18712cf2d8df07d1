"""Check Dockerfile, compose.yaml and apptainer.def without building, and that they agree."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
DEFINITION = (ROOT / "apptainer.def").read_text("utf-8")
QUIET = ("HF_HUB_DISABLE_TELEMETRY=1", "DO_NOT_TRACK=1", "WANDB_ERROR_REPORTING=false")


def instructions() -> list[tuple[str, str]]:
    """`("RUN", "python3 -m venv ...")`: comments dropped, continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (word, rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def of(name: str) -> list[str]:
    return [rest for word, rest in instructions() if word == name]


def copied() -> list[str]:
    return [source for words in of("COPY") for source in shlex.split(words)[:-1]]


def sections() -> dict[str, list[str]]:
    """apptainer.def: `{"": [header], "%post": [...], ...}`, comments and empty lines dropped."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in DEFINITION.splitlines():
        if line.startswith("%"):
            name = line.strip()
            assert name not in found, f"{name} stands twice"
            found[name] = []
        elif line.strip() and not line.lstrip().startswith("#"):
            found[name].append(line.strip())
    return found


def apt_packages(text: str) -> set[str]:
    (words,) = re.findall(r"apt-get install -y --no-install-recommends \\\n\s+(.*)", text)
    return set(words.split())


# Dockerfile


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.is_file():
        pytest.skip("hadolint is not installed: `make setup`")
    done = subprocess.run(
        [hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_pinned_by_tag_and_digest() -> None:
    assert instructions()[1] == ("FROM", "${BASE}")
    assert re.fullmatch(
        r"BASE=nvidia/cuda:13\.0\.\d+-base-ubuntu24\.04@sha256:[0-9a-f]{64}", of("ARG")[0]
    )


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert patterns[0] == "*"  # nothing, but what is named
    named = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    for source in copied():
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in named, source
    # and nothing is sent that is not copied
    assert {source.split("/")[0] for source in copied()} == set(named)


def test_all_code_that_runs_is_copied() -> None:
    """What train.py and evaluate.py import of this repository, and what the package reads beside
    it."""
    script = "\n".join((ROOT / name).read_text() for name in ("train.py", "evaluate.py"))
    packages = {
        path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))
    } - {"tests"}
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(script))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
    }
    # recipes are imported by name
    used = (imported & packages) | {"recipes", "conf", "constraints.txt"}
    assert used <= set(copied())


def test_packages_are_the_constrained_ones() -> None:
    for text in (DOCKERFILE, DEFINITION):
        assert (
            "pip install -c constraints.txt -e ." in text
            or "--no-cache-dir install -c constraints.txt -e ." in text
        )
        assert not re.search(r"pip.* install (?!-c constraints)", text)


def test_it_ends_as_a_user_that_is_not_root() -> None:
    names = [word for word, _ in instructions()]
    assert of("USER") == ["$UID"] and "UID=1000" in of("ARG")
    assert "RUN" not in names[names.index("USER") :]


def test_nothing_is_reported_home_and_no_secret_is_baked_in() -> None:
    settings = " ".join(of("ENV"))
    for setting in QUIET:
        assert setting in settings
        assert f"export {setting}" in sections()["%environment"]
    for name in ("TOKEN", "API_KEY", "PASSWORD", "SECRET"):
        assert name not in DOCKERFILE and name not in DEFINITION


def test_the_health_check_is_the_doctor() -> None:
    (check,) = of("HEALTHCHECK")
    assert check.endswith('CMD ["mvp-align", "doctor", "--offline"]')
    assert sections()["%test"] == ["mvp-align doctor --offline"]


def test_every_entry_point_is_a_command_of_the_package_or_its_dependencies() -> None:
    assert of("ENTRYPOINT") == ['["accelerate", "launch"]']
    assert sections()["%runscript"] == ['exec accelerate launch "$@"']
    for command in ("accelerate", "mvp-align"):
        assert Path(sys.executable).with_name(command).is_file()


def test_its_steps_make_an_image_that_runs(tmp_path: Path) -> None:
    """Each COPY, and the RUN that makes the environment, in their order and without docker. pip
    installs this package alone: its dependencies are those that are installed here."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: `make setup`")
    app, venv = tmp_path / "app", tmp_path / "venv"
    app.mkdir()
    for word, rest in instructions():
        if word == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                copy_as_docker_does(ROOT / source, app / target, into_folder=target.endswith("/"))
        elif word == "RUN" and "pip install" in rest:
            make, install = rest.replace("/opt/venv", str(venv)).split(" && ")
            assert make == f"--mount=type=cache,target=/root/.cache/pip python3 -m venv {venv}"
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            (site,) = venv.glob("lib/python*/site-packages")
            packages = [path for path in sys.path if Path(path).name == site.name]
            (site / "dependencies.pth").write_text("\n".join(packages))
            # pip reads a false PIP_NO_BUILD_ISOLATION as its flag
            alone = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
            in_image(install, app, venv, **alone)
    folders = "import mvp_align.runtime.folders as f; print(f.CONF_DIR, *f.recipe_files().values())"
    found = in_image(f"python -c {shlex.quote(folders)}", tmp_path, venv).split()
    assert found[0] == str(app / "conf") and str(app / "recipes" / "lora_dpo.py") in found
    launch = "python -m accelerate.commands.accelerate_cli launch"
    assert "beta: 0.1" in in_image(f"{launch} {shlex.join(json.loads(of('CMD')[0]))}", app, venv)
    in_image(shlex.join(json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])), app, venv)


def in_image(command: str, cwd: Path, venv: Path, **variables: str) -> str:
    """Return the output of a shell command."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PATH": f"{venv}/bin:{os.environ['PATH']}"} | variables
    done = subprocess.run(
        command, shell=True, cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy_as_docker_does(source: Path, target: Path, *, into_folder: bool) -> None:
    """Copy a folder's content into `target`, or a file to or into `target`."""
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored)
    else:
        target = target / source.name if into_folder else target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


# apptainer.def


def test_apptainers_sections_are_those_that_it_knows() -> None:
    known = {
        "",
        "%files",
        "%post",
        "%environment",
        "%runscript",
        "%test",
        "%labels",
        "%help",
        "%setup",
        "%startscript",
    }
    assert sections().keys() <= known
    header = dict(line.split(": ", 1) for line in sections()[""])
    digest = of("ARG")[0].partition("@")[2]
    assert header == {"Bootstrap": "docker", "From": f"nvidia/cuda@{digest}"}


def test_apptainer_copies_what_docker_copies_to_the_same_places() -> None:
    files = dict(line.split() for line in sections()["%files"])
    assert files == {source: f"/app/{source}" for source in copied() if "/" not in source}
    assert of("WORKDIR") == ["/app"] and "cd /app" in sections()["%post"]


def test_both_images_have_the_same_packages_and_paths() -> None:
    assert apt_packages(DOCKERFILE) == apt_packages(DEFINITION)
    for text in (DOCKERFILE, DEFINITION):
        assert "python3 -m venv /opt/venv" in text
        assert "PATH=/opt/venv/bin:$PATH" in text.replace('"', "")


@pytest.mark.parametrize("section", ["%post", "%environment", "%runscript", "%test"])
def test_apptainers_scripts_are_shell(section: str) -> None:
    lines = DEFINITION.split(section, 1)[1].split("\n%", 1)[0]
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [shellcheck, "--shell=sh", "-"], input=lines, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


# compose.yaml


@pytest.fixture
def compose_file() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))


def test_compose_mounts_where_the_image_looks(compose_file: dict[str, Any]) -> None:
    train = compose_file["services"]["train"]
    settings = dict(pair.split("=", 1) for words in of("ENV") for pair in shlex.split(words))
    targets = {
        mount["target"] if isinstance(mount, dict) else mount.split(":")[1]
        for mount in train["volumes"]
    }
    assert targets == {
        settings["HF_HOME"],
        settings["MVP_ALIGN_CACHE"],
        f"{of('WORKDIR')[0]}/outputs",
    }
    made = next(words for words in of("RUN") if "install -d" in words).split()
    assert {"outputs", "/hf", "/cache"} <= set(made)  # as the user, so that a volume is the user's
    for mount in (mount for mount in train["volumes"] if isinstance(mount, dict)):
        assert mount["type"] == "bind" and mount["bind"]["create_host_path"] is False
    assert set(compose_file["volumes"]) == {"cache"}


def test_compose_builds_with_the_dockerfiles_arguments(compose_file: dict[str, Any]) -> None:
    build = compose_file["services"]["train"]["build"]
    arguments = {argument.split("=")[0] for argument in of("ARG")}
    assert build["context"] == "." and set(build["args"]) <= arguments


def test_compose_reserves_gpus_and_shared_memory(compose_file: dict[str, Any]) -> None:
    train = compose_file["services"]["train"]
    (device,) = train["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert train["shm_size"] == "8gb" and "--shm-size 8g" in DOCKERFILE


def test_compose_passes_keys_on_and_stores_none(compose_file: dict[str, Any]) -> None:
    environment = compose_file["services"]["train"]["environment"]
    assert {"HF_TOKEN", "WANDB_API_KEY"} <= set(environment)
    assert not any("=" in variable for variable in environment)
