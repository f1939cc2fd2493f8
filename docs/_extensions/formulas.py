"""Formulas as MathML, written while building by docutils: readers need no script and no network."""

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging


def mathml(node: nodes.Node, as_block: bool = False) -> str:
    """The formula, or a warning that shows the one that docutils does not know."""
    try:
        return latex2mathml.tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        logging.getLogger(__name__).warning("%s in the formula %s", error, node.astext(), location=node)
        return ""


def inline(self: Any, node: nodes.math) -> None:
    """Write a formula in the line."""
    self.body.append(mathml(node))
    raise nodes.SkipNode


def block(self: Any, node: nodes.math_block) -> None:
    """Write a formula of its own line."""
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(mathml(node, as_block=True))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Give Sphinx the renderer."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
