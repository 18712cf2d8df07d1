"""A model behind an API, as `model.api` names it: what is asked, and what that may cost."""

from collections.abc import Container, Sequence

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.generation.chat_model import ChatModel
from mvp_align.generation.chat_request import ChatRequest
from mvp_align.generation.cost import CostEstimate, estimate, tokens_by_bytes
from mvp_align.generation.remote import Server, messages_of
from mvp_align.runtime.recipes import recipe_named
from mvp_align.runtime.yaml_files import validate_settings
from mvp_align.schema import PromptedPair


def api_problems(config: Config) -> list[str]:
    """List what is wrong between the recipe, the model and its API, each with what to do."""
    model, evals = config.model, config.evals
    is_api = model.api.base_url is not None or not model.id
    if recipe_named(config.recipe).weights:
        return [
            f"model={model.name} is behind an API, where nobody trains it or reads log-probs:"
            f" `mvp-align answer model={model.name}` measures what it answers."
        ] * is_api
    if model.api.base_url is None or not model.id:
        return [
            f"model={model.name} says of no server which model to ask: model.id=NAME"
            " model.api.base_url=URL, or a preset, as model=gpt4o."
            + " `evaluate.py` measures models whose weights are here."
            * (not is_api)
        ]
    needing = {
        "evals.metrics has opa": "opa" in evals.metrics,
        "evals.profiles": evals.profiles,
        "evals.choices": evals.choices,
    }
    problems = [
        f"{what}: that needs log-probs of given answers, which an API does not give. Leave it out."
        for what, asked in needing.items()
        if asked
    ]
    if config.hardware.sharding != "none":
        problems.append(
            f"hardware.sharding={config.hardware.sharding}: a server answers, and nothing here is"
            " sharded. Leave it out."
        )
    if not evals.metrics:
        problems.append("evals.metrics is empty: name spmr, paa or both.")
    if not model.api.limit_usd >= 0:
        problems.append(f"model.api.limit_usd={model.api.limit_usd}: must be 0 or above.")
    try:
        api_model(config)
    except UserError as error:
        problems.append(str(error))
    return problems


def api_model(config: Config) -> ChatModel:
    """Return the model with its address, limits and prices.

    Raises UserError naming every setting of `model.api` that cannot be used.
    """
    api, generation = config.model.api, config.generation
    endpoint = {
        "base_url": api.base_url,
        "model": config.model.id,
        "key_env": api.key_env,
        "concurrency": api.concurrency,
        "requests_per_minute": api.requests_per_minute,
        "read_seconds": api.reply_seconds,
        "total_seconds": 2 * api.reply_seconds,
    }
    values = {
        "name": "answers",
        "endpoint": endpoint,
        "temperature": None if "temperature" in api.leave_out else generation.temperature,
        "max_tokens": generation.max_new_tokens,
        "max_tokens_parameter": api.max_tokens_parameter,
        "usd_per_million_input": api.usd_per_million_input,
        "usd_per_million_output": api.usd_per_million_output,
    }
    return validate_settings(ChatModel, values, f"model.api of model={config.model.name}")


def api_server(config: Config) -> Server:
    """Return the server that `model.api` names. Raises UserError as `api_model` does."""
    model = api_model(config)
    left_out = tuple(config.model.api.leave_out)
    return Server(model.endpoint, model.max_tokens_parameter, left_out)


def answers_cost(
    model: ChatModel, prompts: Sequence[PromptedPair], kept: Container[str]
) -> CostEstimate:
    """Estimate what the answers cost that are not in `kept` (ids), at most.

    Nobody here has the model's tokenizer, so prompts count a token for every BYTES_A_TOKEN bytes.
    """
    requests = {prompt.id: ChatRequest(tuple(messages_of(prompt)), {}, None) for prompt in prompts}
    known = [name for name in requests if name in kept]
    return estimate(model, model.max_tokens, requests, known, tokens_by_bytes)
