"""Visual attributes of classes, written by a language model: what anchors are made of.

STRUCTGUARD (CVPR 2026), Sec. 3.1 and Appendix E: a question for each class, with two short
examples of an answer, after Menon and Vondrick (2022). The model is reached by the optional
pydantic-ai package (``pip install "stakes[llm]"``), which is imported only when there is something
to ask. The class names and the prompt are all that is sent.
"""

import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, create_model

from stakes.anchors.descriptions import Descriptions, read_written
from stakes.errors import InputError, first_line, shortened, some
from stakes.files import SHARED_FILE, write_text
from stakes.progress import Progress, silent

if TYPE_CHECKING:
    from pydantic_ai import Agent
    from pydantic_ai.models import Model

PromptKind = Literal["objects", "faces"]

PROMPTS: dict[PromptKind, str] = {
    "objects": """\
Name what a photo shows of a class, so that it can be told from other classes by sight: shape,
parts, colours, surface, size, and where it is mostly seen. Give exactly {count} different
attributes of a few words each, without semicolons and without the name of the class. (The two
examples are cut short.)

Q: By which visual attributes is a photo of the class "lighthouse" recognised?
A: {{"attributes": ["tall round tower, often striped", "glass lamp room at the top", ...]}}

Q: By which visual attributes is a photo of the class "hedgehog" recognised?
A: {{"attributes": ["coat of short brown spines", "small pointed snout", ...]}}

Q: By which visual attributes is a photo of the class "{name}" recognised?
A:""",
    "faces": """\
Name what a photo shows of a well-known person, so that the face can be told from other faces by
sight: eyes, eyebrows, hair, skin, shape of the face, usual expression, and what is mostly worn.
Give exactly {count} different attributes of a few words each, without semicolons and without the
name of the person. (The two examples are cut short.)

Q: By which visual attributes is the face of "Abraham Lincoln" recognised in a photo?
A: {{"attributes": ["dark beard along the chin, no moustache", "hollow cheeks", ...]}}

Q: By which visual attributes is the face of "Frida Kahlo" recognised in a photo?
A: {{"attributes": ["dark eyebrows that meet", "flowers in braided black hair", ...]}}

Q: By which visual attributes is the face of "{name}" recognised in a photo?
A:""",
}
"""Templates for :meth:`str.format`; the wording is ours, the paper's is in its Table 9."""

PROVIDERS = ("openai", "anthropic", "ollama")
"""Each reads its key from <NAME>_API_KEY, and its address from <NAME>_BASE_URL if that is set."""

_OLLAMA = "http://localhost:11434/v1"
_TRIES = 6  # of a request, and of an answer
_SECONDS = 120.0
_TRY_LATER = (408, 409, 429)


def _one_part(text: str) -> str:
    if ";" in text or "\n" in text:
        raise ValueError("one line without semicolons: attributes are joined by them")
    return text


def _all_different(attributes: list[str]) -> list[str]:
    if len({attribute.casefold() for attribute in attributes}) < len(attributes):
        raise ValueError("every attribute must be different from the others")
    return attributes


_SHORT = StringConstraints(strip_whitespace=True, min_length=1, max_length=100)
Attribute = Annotated[str, _SHORT, AfterValidator(_one_part)]
Attributes = Annotated[list[Attribute], AfterValidator(_all_different)]


class Answer(BaseModel):
    """What a language model must answer for one class."""

    attributes: Attributes


def answer_of(count: int) -> type[Answer]:
    """The answer with exactly ``count`` attributes: short texts, none empty, all different.

    >>> answer_of(2).model_validate({"attributes": ["soft fur", " whiskers "]}).attributes
    ['soft fur', 'whiskers']
    """
    exactly = Annotated[Attributes, Field(min_length=count, max_length=count)]
    return create_model("Answer", __base__=Answer, attributes=(exactly, ...))


def describe(
    class_names: Sequence[str],
    model: str,
    out: str | Path,
    *,
    prompt: PromptKind = "objects",
    count: int = 7,
    base_url: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Descriptions:
    """Let a language model describe each class, and write ``out`` after every one.

    ``out`` is JSON that :func:`stakes.anchors.descriptions.read_descriptions` reads:
    ``descriptions`` (class
    -> attributes) beside ``model``, ``prompt``, ``attributes`` (how many each) and ``date``. Where
    it exists already, only classes that are not in it are asked for; none is taken out. A
    request that fails (429, 5xx, no connection) is tried again after a growing pause, and an
    answer that is not ``count`` different attributes is sent back with what is wrong.

    Args:
        class_names: the classes; an underscore is sent as a space.
        model: ``provider:name``, the provider one of :data:`PROVIDERS`; its key is read from the
            environment and kept nowhere.
        out: JSON file to write.
        prompt: ``objects``, or ``faces`` for people whom the model knows.
        count: attributes for each class; the paper's examples have 4 to 7.
        base_url: address of a server that speaks the provider's protocol; the provider's key, if
            there is one, is sent to it.
        overwrite: start over, whatever ``out`` holds.
        progress: called with phase, steps done, steps in all and a note.

    Raises:
        InputError: an unknown provider, no pydantic-ai, no key, a request that is refused, no
            usable answer, ``out`` from another model, prompt or count, or not named .json.
        ConnectionError: the provider cannot be reached, or goes on failing.
    """
    if count < 1:
        raise InputError(f"--attributes {count}: ask for at least one")
    out = Path(out)
    if out.suffix != ".json":
        raise InputError(f"descriptions are written as .json: rename {out}")
    card = {"model": model, "prompt": PROMPTS[prompt], "attributes": count}
    written, found = ({}, {}) if overwrite or not out.exists() else read_written(out)
    if found:
        _check_same(out, written, card)
    card["date"] = written.get("date", datetime.date.today().isoformat())
    missing = [name for name in class_names if name not in found]
    if not missing:
        return found
    agent = _agent(model, base_url, count)
    for done, name in enumerate(missing, len(class_names) - len(missing)):
        progress("describing", done, len(class_names), name)
        question = PROMPTS[prompt].format(name=name.replace("_", " "), count=count)
        found[name] = _ask(agent, question, model, name)
        text = json.dumps({**card, "descriptions": found}, indent=1, ensure_ascii=False)
        write_text(out, text + "\n", SHARED_FILE)
    progress("describing", len(class_names), len(class_names))
    return found


def _check_same(out: Path, written: dict[str, Any], card: dict[str, Any]) -> None:
    if not written:
        raise InputError(f"{out} was not written by stakes describe: give another --out")
    if other := [key for key in card if written.get(key) != card[key]]:
        raise InputError(
            f"{out} was started with a different value of {some(other)}: use the same one to "
            "resume, or give another --out, or --overwrite to start over"
        )


def _ask(agent: "Agent[None, Answer]", question: str, model: str, name: str) -> list[str]:
    from pydantic_ai.exceptions import ModelAPIError, UnexpectedModelBehavior

    try:
        return agent.run_sync(question).output.attributes
    except UnexpectedModelBehavior as error:
        raise InputError(
            f"{model} gave no usable attributes for {name} in {_TRIES} answers "
            f"({first_line(error)}): choose another model"
        ) from error
    except ModelAPIError as error:
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            key = f"{model.partition(':')[0].upper()}_API_KEY"
            raise InputError(f"{model} refuses the key ({status}): check {key}") from error
        if status is not None and 400 <= status < 500 and status not in _TRY_LATER:
            raise InputError(
                f"{model} refuses the request: {first_line(error)}; check --model and --base-url"
            ) from error
        reason = "no connection" if status is None else f"it answers {status}"
        raise ConnectionError(
            f"{model} failed after {_TRIES} tries at {name} ({reason}); what is described so "
            "far is kept; run the same command again to resume"
        ) from error


def _agent(model: str, base_url: str | None, count: int) -> "Agent[None, Answer]":
    language_model = _language_model(model, base_url)
    from pydantic_ai import Agent, PromptedOutput

    # The schema goes into the prompt: servers and small models without tool calls take it as well.
    answer = PromptedOutput(answer_of(count))
    return Agent(language_model, output_type=answer, retries=_TRIES - 1)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _language_model(model: str, base_url: str | None) -> "Model[Any]":
    provider, _, name = model.partition(":")
    if provider not in PROVIDERS or not name:
        raise InputError(f"--model {model}: give PROVIDER:NAME, with {', '.join(PROVIDERS)}")
    local = _OLLAMA if provider == "ollama" else None
    url = base_url or os.environ.get(f"{provider.upper()}_BASE_URL") or local
    if url is not None and not url.startswith(("http://", "https://")):
        raise InputError(f"the base URL {url} does not begin with http:// or https://: add it")
    if url is not None and not _is_address(url):
        raise InputError(f"--base-url {shortened(url)}: give one such as http://localhost:11434/v1")
    key = os.environ.get(f"{provider.upper()}_API_KEY")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise InputError(
            f"{provider.upper()}_API_KEY has characters that no key has; copy it again"
        )
    if not key and url is None:
        raise InputError(f"--model {model} needs a key: set {provider.upper()}_API_KEY")
    # Clients of our own, for the retries that they come with: growing pauses, Retry-After.
    options: dict[str, Any] = {"base_url": url, "max_retries": _TRIES - 1, "timeout": _SECONDS}
    options["api_key"] = key or "none"  # the clients want one, servers of one's own do not
    try:
        if provider == "anthropic":
            return _of_anthropic(name, options)
        return _of_openai(name, options, ollama=provider == "ollama")
    except ImportError as error:
        raise InputError(
            f'language models need an extra ({first_line(error)}): pip install "stakes[llm]"'
        ) from error


def _of_anthropic(name: str, options: dict[str, Any]) -> "Model[Any]":
    from anthropic import AsyncAnthropic
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    provider = AnthropicProvider(anthropic_client=AsyncAnthropic(**options))
    return AnthropicModel(name, provider=provider)


def _of_openai(name: str, options: dict[str, Any], *, ollama: bool) -> "Model[Any]":
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.ollama import OllamaProvider
    from pydantic_ai.providers.openai import OpenAIProvider

    kind = OllamaProvider if ollama else OpenAIProvider
    return OpenAIChatModel(name, provider=kind(openai_client=AsyncOpenAI(**options)))
