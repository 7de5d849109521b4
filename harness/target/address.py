"""The base URL of a target, as an API's documentation gives it."""

from __future__ import annotations

import hashlib
import os
from urllib.parse import urlsplit, urlunsplit

from harness.config.schema import TargetConfig
from harness.errors import UnavailableError, UsageError

_SCHEMES = {"openai": ("http", "https"), "realtime": ("ws", "wss")}


def base_url(target: TargetConfig) -> str:
    """Without a slash at its end; a URL without a path gets OpenAI's ``/v1``.

    Raises ``UsageError`` for one that cannot be asked, or that holds what results must not.
    """
    try:
        parts = urlsplit(target.url)
        known = parts.scheme in _SCHEMES[target.name] and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        schemes = " or ".join(f"{scheme}://" for scheme in _SCHEMES[target.name])
        raise UsageError(f"target.url={target.url!r}: give the server's base URL, {schemes}HOST:PORT/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(
            "target.url: it is written to results, so it holds no user, query or fragment; name the "
            "environment variable of a key as target.key_variable"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def stated_host(target: TargetConfig) -> str:
    """Host and port, or their hash, as results name them."""
    host = urlsplit(base_url(target)).netloc
    return f"host-{hashlib.sha256(host.lower().encode()).hexdigest()[:12]}" if target.hide_host else host


def stated_url(target: TargetConfig) -> str:
    """The base URL as results hold it."""
    return urlunsplit(urlsplit(base_url(target))._replace(netloc=stated_host(target)))


def without_secrets(message: str, target: TargetConfig, key: str | None) -> str:
    """What a server says may repeat the key, or name the host that is to be hidden."""
    if key is not None:
        message = message.replace(key, "[key]")
    if target.hide_host:
        parts = urlsplit(base_url(target))
        for name in (parts.netloc, parts.hostname or parts.netloc):
            message = message.replace(name, stated_host(target))
    return message


def key(target: TargetConfig) -> str | None:
    """The secret, from the environment; None where none is asked for. Raises ``UnavailableError``."""
    if not target.key_variable:
        return None
    found = os.environ.get(target.key_variable, "")
    if not found or not (found.isascii() and found.isprintable()):
        raise UnavailableError(
            f"target.key_variable={target.key_variable}: the environment has no such variable, or none that "
            "fits in a header"
        )
    return found
