"""The page: plain data to one HTML file, all text escaped, its one script and one style named by their digests."""

import base64
import hashlib
import json
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hydragrad.reports.content import Content
from hydragrad.reports.wording import percent

SCRIPTS = (
    "data",
    "wording",
    "elements",
    "samples",
    "charts",
    "listing",
    "marks",
    "removal",
    "overview",
    "targets",
    "suspects",
    "groups",
    "duplicates",
    "explain",
    "contributions",
    "main",
)
"""The script's parts, in the order in which they need each other."""


def page(content: Content) -> str:
    """Return the HTML file's text."""
    style = _asset("page.css")
    script = '"use strict";\n(() => {\n' + "\n".join(_asset(f"{name}.js") for name in SCRIPTS) + "})();\n"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    return environment.from_string(_asset("page.html")).render(
        content=content,
        # Our own files; their digests are in the policy, so they must not be escaped.
        style=Markup(style),
        style_digest=_digest(style),
        script=Markup(script),
        script_digest=_digest(script),
        data=Markup(_json(content.data)),
    )


def _asset(name: str) -> str:
    return resources.files("hydragrad.reports").joinpath("browser", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: dict[str, Any]) -> str:
    """JSON that no parser of HTML sees a tag in."""
    text = json.dumps(_without_nan(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _without_nan(value: Any) -> Any:
    """NaN and infinity as null, which is all that JSON has for them."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return [_without_nan(entry) for entry in value] if isinstance(value, list | tuple) else value
