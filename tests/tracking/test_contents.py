"""What all trackers get: a name, a group, the config with its environment, files."""

from collections.abc import Callable

from mvp_align.config import Config, Run
from mvp_align.tracking.contents import artifact_name, config_and_environment, group_of

MakeConfig = Callable[..., Config]


def test_seeds_of_a_configuration_are_one_group(compose: MakeConfig, tracked: MakeConfig) -> None:
    assert (
        group_of(compose("seed=12"))
        == group_of(compose("seed=13"))
        == "lora_dpo-smollm2_135m-sample-paper"
    )
    assert group_of(compose("run.name=mine")) == "mine"
    assert group_of(compose("run.name=beta03-12")) == "beta03"
    assert group_of(compose("tracking.group=ablation")) == "ablation"
    unresolved = tracked()
    unresolved.run, unresolved.seed = Run(), 7
    assert group_of(unresolved) == "lora_dpo-tiny-sample-paper"


def test_the_config_comes_with_the_environment(compose: MakeConfig) -> None:
    found = config_and_environment(compose())
    assert found["run"]["dir"] == "outputs/lora_dpo-smollm2_135m-sample-paper-12"
    assert set(found["environment"]) == {
        "command",
        "python",
        "platform",
        "versions",
        "git",
        "device",
    }


def test_artifact_names_are_what_the_libraries_allow(tmp_path) -> None:
    assert artifact_name("my run: ä/1", tmp_path / "adapter") == "my-run-1-adapter"
