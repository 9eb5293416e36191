"""Which model embeds texts, and the request that asks it.

All vectors of one call come from one model of one provider, because vectors of different models
cannot be compared. Its keys rotate as for any request.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .catalog import EmbeddingModel
from .config import Configuration
from .errors import ConfigurationError, InvalidRequest, NoKeys, NotKept
from .options import build_request, check_for_keys, python_number, shown
from .request import Request, text_tokens
from .text.characters import whole_characters
from .text.wording import did_you_mean

if TYPE_CHECKING:
    from .quota_tracker import QuotaTracker
    from .types import Route

# No tokenizer reaches this ratio with prose, so a longer text cannot fit.
_CHARACTERS_PER_TOKEN = 10
# A batch uses at most this share of a limit, so that it fits into a partly used window.
_SHARE_OF_A_LIMIT = 0.25


def choose_model(
    configuration: Configuration,
    model: str | None = None,
    provider: str | None = None,
    *,
    among: Iterable[str] | None = None,
) -> tuple[str, str]:
    """Return the provider and model for an embedding request.

    Without a model, it is the first of the provider. Without a provider either, it is the first
    provider with an embedding model and a key, free ones first.

    Args:
        configuration: providers, models and keys.
        model: a model, `provider/model`, a provider, or an alias. If the provider is named, a
            model that is not known is sent unchanged.
        provider: the provider to use.
        among: only these providers are used; all of them if not given.

    Raises:
        InvalidRequest: the model is not text.
        ConfigurationError: unknown provider or model, a provider without embedding models, or one
            that is not among those to use.
        NoKeys: no provider with an embedding model has a key.
    """
    if model is not None and not isinstance(model, str):
        raise InvalidRequest(f"model is {shown(model)}; it must be the name of a model")
    known, model = configuration.providers, configuration.without_alias(model)
    among = tuple(known) if among is None else tuple(among)
    if model in known and not provider:
        model, provider = None, model
    if model and not provider:
        prefix, _, rest = model.partition("/")
        if prefix in known and rest:
            provider = prefix
    if provider:
        entry = configuration.provider(provider)
        model = (model or next(iter(entry.embedding_models), "")).removeprefix(f"{provider}/")
        if not model:
            raise ConfigurationError(
                f"{provider} has no embedding model; {_known(configuration)}, or name its own as "
                f"{provider}/model"
            )
    elif model:
        owners = [name for name, entry in known.items() if model in entry.embedding_models]
        if not owners:
            names = [name for entry in known.values() for name in entry.embedding_models]
            raise configuration.unknown(
                f"unknown embedding model {model!r}{did_you_mean(model, names)}; "
                f"{_known(configuration)}; write provider/model for another one"
            )
        owners = [name for name in among if name in owners] or owners
        with_key = (name for name in owners if _has_key(configuration, name, model))
        provider = next(with_key, owners[0])
    else:
        return _first_with_key(configuration, among)
    if provider not in among:
        raise ConfigurationError(
            f"{provider} is not among the providers of this object ({', '.join(among)})"
        )
    return provider, model


def _first_with_key(configuration: Configuration, among: Sequence[str]) -> tuple[str, str]:
    known = configuration.providers
    preferred = configuration.preferred_provider
    named = [(name, own) for name in among for own in known[name].embedding_models]
    named.sort(key=lambda pair: (pair[0] != preferred, known[pair[0]].costs_money(pair[1])))
    for name, own in named:
        if _has_key(configuration, name, own):
            return name, own
    variables = ", ".join(dict.fromkeys(known[name].key_variables[0] for name, _ in named))
    raise NoKeys(
        "no provider with an embedding model has an API key"
        + (f"; set {variables} in the environment or in a .env file" if variables else "")
    )


def embedding_request(
    texts: Sequence[str],
    configuration: Configuration,
    provider: str,
    model: str,
    *,
    dimensions: int | None = None,
    **options: Any,
) -> Request:
    """Return the request for the vectors of some texts.

    Args:
        texts: what to embed; lone surrogates are replaced.
        configuration: has the keys that no text may contain, and defaults.
        provider: the one to ask, as `choose_model` returns it.
        model: its model.
        dimensions: the length of the vectors; the model's own if not given.
        **options: `patience`, `timeout`, `reserve`, `private` and `tag`, as for `generate`.

    Raises:
        InvalidRequest: an option is wrong, a text is blank, surely too long or contains a key, or
            the model has no vectors of this length.
        NotKept: replay is set to only, which sends nothing.
    """
    about = about_model(configuration, provider, model)
    dimensions = check_dimensions(dimensions, model, about)
    if configuration.replay == "only":
        raise NotKept(
            "there are no kept vectors for these texts; replay is set to only, so nothing was sent"
        )
    if not texts:
        raise InvalidRequest("the list of texts is empty; give at least one text to embed")
    for number, text in enumerate(texts):
        check_text(text, number, model, about)
    check_for_keys(texts, configuration.keys)
    # The prompt does not matter: this only checks the options.
    plain = build_request("…", configuration, provider=provider, keep=False, **options)
    return replace(
        plain,
        messages=(),
        model=model,
        inputs=tuple(map(whole_characters, texts)),
        dimensions=dimensions,
        same_model=True,
        replay="off",
        counts_as=len(texts) if about.counts_texts else 1,
    )


def in_batches(
    texts: Iterable[str], sample: Request, routes: Sequence[Route], tracker: QuotaTracker
) -> Iterator[tuple[str, ...]]:
    """Yield the texts in batches, each for one request, that fit the model and its limits.

    Args:
        texts: what to embed.
        sample: a request like those for the batches.
        routes: those that the sample may take.
        tracker: knows their limits.
    """
    configuration = tracker.configuration
    about = about_model(configuration, str(sample.provider), str(sample.model))
    room = min((tracker.room(route) for route in routes), default=math.inf)
    most_tokens = min(about.tokens_per_request or math.inf, _SHARE_OF_A_LIMIT * room)
    most_texts = float(about.texts_per_request)
    if about.counts_texts:
        limits = [limit for route in routes for limit in configuration.default_limits(route)]
        amounts = [limit.amount for limit in limits if limit.metric == "requests"]
        most_texts = min([most_texts, *(_SHARE_OF_A_LIMIT * amount for amount in amounts)])
    batch: list[str] = []
    tokens = 0.0
    for text in texts:
        more = text_tokens(text)
        if batch and (len(batch) + 1 > most_texts or tokens + more > most_tokens):
            yield tuple(batch)
            batch, tokens = [], 0.0
        batch.append(text)
        tokens += more
    if batch:
        yield tuple(batch)


def about_model(configuration: Configuration, provider: str, model: str) -> EmbeddingModel:
    """Return what is known of an embedding model."""
    return configuration.providers[provider].embedding_models.get(model, EmbeddingModel())


def check_dimensions(dimensions: object, model: str, about: EmbeddingModel) -> int | None:
    """Return the length of vectors that a caller asks for; None is the model's own.

    Raises:
        InvalidRequest: it is not a length that the model has.
    """
    if dimensions is None:
        return None
    length = python_number(dimensions)
    if not isinstance(length, int) or length < 1:
        raise InvalidRequest(
            f"dimensions is {shown(dimensions)}; it must be a whole number, 1 or more",
            option="dimensions",
        )
    most = about.dimensions
    if most and (length > most or (length < most and not about.takes_dimensions)):
        fewer = " or fewer" if about.takes_dimensions else ""
        raise InvalidRequest(
            f"dimensions is {length}; {model} has {most:,}{fewer}", option="dimensions"
        )
    return length


def check_text(text: object, number: int, model: str, about: EmbeddingModel) -> None:
    """Check a text to embed; `number` is its position in the data.

    Raises:
        InvalidRequest: it is not text, it is blank, or it is surely too long for the model.
    """
    if not isinstance(text, str):
        raise InvalidRequest(f"value {number} is of type {type(text).__name__}; it must be text")
    if not text.strip():
        raise InvalidRequest(f"text {number} is empty")
    most = about.tokens_per_text
    if not most or len(text) <= most:
        return
    # Tokens rarely contain two words, and a run of spaces may be a single one.
    words = text.split()
    if max(len(words), sum(map(len, words)) / _CHARACTERS_PER_TOKEN) > most:
        raise InvalidRequest(
            f"text {number} is too long: {len(text):,} characters, about {len(text) // 4:,} "
            f"tokens; {model} takes {most:,} tokens. Nothing was sent"
        )


def _has_key(configuration: Configuration, provider: str, model: str) -> bool:
    return any(
        key.provider == provider and configuration.is_on(key, model) for key in configuration.keys
    )


def _known(configuration: Configuration) -> str:
    names = [
        f"{entry.name}/{model}"
        for entry in configuration.providers.values()
        for model in entry.embedding_models
    ]
    return f"known models: {', '.join(names)}"
