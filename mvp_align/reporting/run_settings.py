"""What a reader wants to know of a run before its numbers: facts, and the settings that matter."""

from collections.abc import Iterable, Iterator

from mvp_align.errors import UserError
from mvp_align.reporting.references import converted_from
from mvp_align.reporting.report_files import ReportFiles
from mvp_align.runtime.recipes import recipe_named

TRAINING = (
    ("Learning rate", "train.learning_rate"),
    ("Schedule", "train.lr_scheduler"),
    ("Epochs", "train.epochs"),
    ("Steps", "train.max_steps"),
    ("Pairs a step", "train.batch_size"),
    ("Loss", "train.loss_type"),
    ("Beta", "train.beta"),
    ("Objective", "train.objective"),
    ("LoRA rank", "lora.r"),
    ("LoRA alpha", "lora.alpha"),
    ("LoRA layers", "lora.target_modules"),
    ("Quantisation", "quantization"),
)
MEASURING = (
    ("Fewest people of a group", "evals.min_users"),
    ("Regions", "evals.regions"),
    ("Worst group by", "evals.worst_by"),
    ("Judge", "evals.judge"),
)


def settings_shown(files: ReportFiles) -> list[tuple[str, str]]:
    """The settings that results depend on most, with names; those of training only where the run
    trained, and a judge only where answers were judged. `train.max_steps`, where set, decides
    instead of epochs, which then are left out."""
    judged = any(row.metric.startswith("paa/") for row in files.rows)
    wanted = [one for one in MEASURING if judged or one[1] != "evals.judge"]
    if trains(files.setting("recipe")):
        decided = "train.epochs" if files.setting("train.max_steps") is not None else ""
        wanted = [one for one in TRAINING if one[1] != decided] + wanted
    return _texts((name, files.setting(key)) for name, key in wanted)


def facts(files: ReportFiles) -> list[tuple[str, str]]:
    """What was run, on what, and when."""
    environment = files.environment
    versions, git, device, inputs = (
        environment.get(key) or {} for key in ("versions", "git", "device", "inputs")
    )
    commit = str(git.get("commit", ""))[:10]
    return _texts(
        {
            "Model": inputs.get("model") or files.setting("model.id"),
            "Asked at": files.setting("model.api.base_url"),
            "Converted from": converted_from(environment),
            "Recipe": files.setting("recipe"),
            "Data": files.setting("data.name"),
            "Prompt": files.setting("prompt.name"),
            "Seed": files.setting("seed"),
            "Device": device.get("name"),
            "mvp-align": versions.get("mvp-align"),
            "Commit": f"{commit} with changes" if commit and git.get("dirty") else commit,
            "Time": environment.get("time"),
        }.items()
    )


def trains(recipe: object) -> bool:
    """Whether the run trained, so that its test pairs are of people it has not seen.

    A report must open where the user's own recipe is not at hand; all of those train.
    """
    try:
        return recipe_named(str(recipe)).trains
    except UserError:
        return True


def _texts(found: Iterable[tuple[str, object]]) -> list[tuple[str, str]]:
    return list(_shown(found))


def _shown(found: Iterable[tuple[str, object]]) -> Iterator[tuple[str, str]]:
    for name, value in found:
        if value not in (None, ""):
            is_list = hasattr(value, "__iter__") and not isinstance(value, str)
            yield name, ", ".join(map(str, value)) if is_list else str(value)  # type: ignore[call-overload]
