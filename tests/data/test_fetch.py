"""`mvp-align data fetch`: terms, mirrors, what is in place afterwards, and kills in the middle."""

import hashlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from file_server import FileServer, serving
from typer.testing import CliRunner, Result

from mvp_align.cli import app
from mvp_align.config import Config
from mvp_align.data import fetch, public_sources
from mvp_align.data.load import load_data
from mvp_align.data.public_sources import fetch_command, public_source
from mvp_align.data.readers import read_pairs
from mvp_align.data.sets import SETS, UFP4
from mvp_align.data.sources import sample_root
from mvp_align.errors import UserError
from mvp_align.runtime import download

ROOT = Path(__file__).parents[2]
Compose = Callable[..., Config]
REAL = public_sources.public_sources()


def stand_ins() -> dict[str, dict[str, bytes]]:
    """By source: the bundled sample's records under the paths of the real files."""
    splits = {
        split: sample_root().joinpath(f"{split}.json").read_bytes()
        for split in ("train", "val", "test")
    }
    first = {f"data/DVB-{split}.json": content for split, content in splits.items()}
    second = {f"data/mvpbench_{split}.json": content for split, content in splits.items()}
    # not the bundled set byte by byte, which is refused in its place
    four = {
        f"benchmark/UF-P-4/{name}.json": sample_root().joinpath(f"ufp4/{name}.json").read_bytes()
        + b"\n"
        for name in SETS[UFP4].user_types
    }
    return {"divervalue": first, "mvpbench": second, "ufp4": four}


def blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Serves stand-ins whose ids are the pinned ones; commands run in an empty folder."""
    table = yaml.safe_load(public_sources.FILE.read_text("utf-8"))
    files = {}
    for name, contents in stand_ins().items():
        table[name]["files"] = {path: blob(content) for path, content in contents.items()}
        files |= contents
    table = {name: table[name] for name in stand_ins()}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(table, sort_keys=False), "utf-8")
    monkeypatch.setattr(public_sources, "FILE", tmp_path / "table.yaml")
    public_sources.public_sources.cache_clear()
    monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(download, "READ_SECONDS", 0.5)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with serving(files) as server:
        yield server
    public_sources.public_sources.cache_clear()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["data", "fetch", *words])


def refusal(*words: str) -> str:
    done = run(*words)
    assert isinstance(done.exception, UserError), done.output
    return str(done.exception)


def listing(folder: str = "data") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def test_the_presets_and_the_table_name_the_same_files(compose: Compose) -> None:
    for name in ("divervalue", "mvpbench"):
        data = compose(f"data={name}").data
        assert [str(file.target) for file in REAL[name].pinned] == [data.train, data.val, data.test]
        assert REAL[name].use == f"data={name}"
    assert {f"{kind}.json" for kind in SETS[UFP4].user_types} == {
        file.target.name for file in REAL["ufp4"].pinned
    }
    for source in REAL.values():
        assert re.fullmatch("[0-9a-f]{40}", source.commit)
        assert all(re.fullmatch("[0-9a-f]{40}", blob) for blob in source.files.values())
    targets = [file.target for source in REAL.values() for file in source.pinned]
    assert len({*targets}) == len(targets)


def test_a_missing_file_names_the_command(
    tmp_path: Path, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"DVB-train.json: no such .*`mvp-align data fetch diver"):
        load_data(compose("data=divervalue"))
    with pytest.raises(UserError, match=r"UF-P-4: no such .*`mvp-align data fetch ufp4` fetches"):
        load_data(compose("evals.ufp4=data/UF-P-4"))
    assert fetch_command(Path("./data/mvpbench_val.json")) == "mvp-align data fetch mvpbench"
    assert fetch_command(Path("data")) == fetch_command(Path("data/mine.json")) == ""


def test_afterwards_the_presets_just_work(server: FileServer, compose: Compose) -> None:
    for name in ("divervalue", "mvpbench", "ufp4"):
        server.script.extend(["cut", "redirect", "503", "corrupt"])
        done = run(name, "--from", server.url, "--yes")
        assert done.exit_code == 0, done.output
        assert f"Use: {public_source(name).use}\n" in done.output
    data = load_data(compose("data=divervalue", "evals.ufp4=data/UF-P-4"))
    assert len(data.train) > 100 and len(data.by_set["ufp4"]) == 72
    assert load_data(compose("data=mvpbench")).test == data.test
    assert listing() == sorted(
        [
            "UF-P-4", "UF-P-4/ufp4.licence.txt", "divervalue.licence.txt", "mvpbench.licence.txt",
            *(f"UF-P-4/{kind}.json" for kind in SETS[UFP4].user_types),
            *(f"DVB-{split}.json" for split in ("train", "val", "test")),
            *(f"mvpbench_{split}.json" for split in ("train", "val", "test")),
        ]
    )  # fmt: skip


def test_what_is_there_is_verified_and_not_fetched_again(server: FileServer) -> None:
    run("divervalue", "--from", server.url, "--yes")
    Path("data/DVB-val.json").unlink()
    server.asked.clear()
    done = run("divervalue", "--from", server.url)  # and its terms were accepted
    assert done.exit_code == 0 and "Licence" not in done.output
    assert [path for path, _ in server.asked] == ["data/DVB-val.json"]
    assert re.findall(r"json: (fetched|was there), ", done.output) == [
        "was there", "fetched", "was there",
    ]  # fmt: skip
    Path("data/DVB-val.json").write_text("mine")
    server.asked.clear()
    assert "data/DVB-val.json is another file (git blob id" in refusal("divervalue")
    assert Path("data/DVB-val.json").read_text() == "mine" and not server.asked


def test_one_wrong_file_puts_none_in_place(server: FileServer) -> None:
    server.files["benchmark/UF-P-4/truthfulness.json"] = b"[]"
    assert "truthfulness.json is not the file that was asked for: 2 bytes came" in refusal(
        "ufp4", "--from", server.url, "--yes"
    )
    assert [name for name in listing("data/UF-P-4") if name.endswith(".json")] == []
    server.files = stand_ins()["ufp4"]
    server.asked.clear()
    assert run("ufp4", "--from", server.url).exit_code == 0
    assert [path for path, _ in server.asked] == ["benchmark/UF-P-4/truthfulness.json"]


def test_a_folder_is_a_mirror(server: FileServer, tmp_path: Path) -> None:
    clone, flat = tmp_path / "clone", tmp_path / "flat"
    for path, content in stand_ins()["divervalue"].items():
        for place in (clone / path, flat / Path(path).name):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    (flat / "DVB-test.json").rename(flat / "test.json")
    assert refusal("divervalue", "--from", str(flat), "--yes").splitlines() == [
        f"--from {flat} lacks files of this source:",
        f"  - {flat}/data/DVB-test.json: no such file, nor {flat}/DVB-test.json.",
    ]
    (flat / "DVB-test.json").write_text("[]")
    assert f"{flat}/DVB-test.json is not the file" in refusal("divervalue", "--from", str(flat))
    assert not Path("data/DVB-train.json").exists()
    (flat / "test.json").replace(flat / "DVB-test.json")
    for mirror in (clone, flat):
        assert run("divervalue", "--from", str(mirror)).exit_code == 0
        for path, content in stand_ins()["divervalue"].items():
            assert Path(path).read_bytes() == content
            Path(path).unlink()
    assert not server.asked


def test_a_wrong_name_or_mirror_is_told(server: FileServer) -> None:
    assert "There are: divervalue, mvpbench, ufp4. Did you mean ufp4?" in refusal("ufp")
    for mirror in ("nowhere", "ftp://host/x"):
        assert f"--from {mirror}: no such folder" in refusal("ufp4", "--from", mirror)
    for mirror in ("https://host:port", "https://"):
        assert f"--from {mirror}: " in refusal("ufp4", "--from", mirror)
    Path("data").write_text("")
    assert "data: File exists: correct that" in refusal("divervalue", "--yes", "--from", server.url)


def test_without_a_terminal_nobody_is_asked(server: FileServer) -> None:
    done = run("divervalue", "--from", server.url)
    assert "Nothing was fetched: nobody can be asked here" in str(done.exception)
    assert public_source("divervalue").licence in done.output
    assert public_source("divervalue").citation in done.output
    assert not Path("data").exists() and not server.asked


def start(*words: str, **streams: int) -> subprocess.Popen[bytes]:
    """The command in a process of its own, with the table of this test."""
    code = (
        "import sys; from pathlib import Path\n"
        "from mvp_align.data import public_sources; from mvp_align.cli import main\n"
        f"public_sources.FILE = Path({str(public_sources.FILE)!r})\n"
        f"sys.argv = ['mvp-align', 'data', 'fetch', *{list(words)}]; main()"
    )
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, **streams
    )


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_terminal_is_asked_once(answer: str, server: FileServer) -> None:
    ours, theirs = pty.openpty()
    process = start("ufp4", "--from", server.url, stdin=theirs, stdout=-1, stderr=-1)
    os.write(ours, f"{answer}\n".encode())
    out, err = process.communicate(timeout=120)
    assert b"Do you agree to use the files under these terms?" in out
    notice = Path("data/UF-P-4/ufp4.licence.txt")
    if answer == "n":
        assert process.returncode == 2 and b"the terms were not agreed to" in err
        assert not Path("data").exists() and not server.asked
        return
    assert process.returncode == 0, err
    source = public_source("ufp4")
    text = notice.read_text("utf-8")
    assert all(said in text for said in (source.licence, source.citation, source.page))
    assert all(file.blob in text for file in source.pinned)
    Path("data/UF-P-4/honesty.json").unlink()
    assert "Licence" not in run("ufp4", "--from", server.url).output
    notice.write_text(text.replace("Licence: None", "Licence: All"))  # of an earlier version
    Path("data/UF-P-4/honesty.json").unlink()
    assert "nobody can be asked here" in refusal("ufp4", "--from", server.url)


def test_kill_9_in_the_middle_and_go_on(server: FileServer) -> None:
    whole = stand_ins()["divervalue"]
    half = len(whole["data/DVB-train.json"]) // 2
    server.script.append("stall")
    process = start("divervalue", "--from", server.url, "--yes", stdout=-1, stderr=-1)
    assert server.half.wait(60)
    (part,) = wait_for(lambda: [p for p in Path("data").glob(".*.part") if p.stat().st_size > 0])
    assert "is fetching into data: wait until it is done" in refusal("divervalue")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = part.stat().st_size
    assert 0 < kept <= half and not Path("data/DVB-train.json").exists()
    server.asked.clear()
    done = run("divervalue", "--from", server.url)
    assert done.exit_code == 0, done.output
    assert server.asked[0] == ("data/DVB-train.json", f"bytes={kept}-")
    assert {path: Path(path).read_bytes() for path in whole} == whole
    assert list(Path("data").glob(".*")) == []


def wait_for(look: Callable[[], list[Path]]) -> list[Path]:
    for _ in range(200):
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("nothing came")


@pytest.mark.reference
def test_a_real_file_has_the_pinned_id(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P-Soups' records beside this checkout are AlignX's file as it stands."""
    origin = shared / "data" / "psoups_friendly_history.json"
    (pinned,) = [file for file in REAL["psoups"].pinned if "friendly" in file.path]
    monkeypatch.chdir(tmp_path)
    pinned.target.parent.mkdir(parents=True)
    watch = download.Watch(lambda *there: None, lambda line: None)
    with serving({pinned.path: origin.read_bytes()}) as server:
        server.script.append("cut")
        fetch.fetch_files(REAL["psoups"], [pinned], server.url, watch)
    assert pinned.target.read_bytes() == origin.read_bytes()
    assert len(read_pairs("data/P-Soups", "psoups").pairs) > 100
