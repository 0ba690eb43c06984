"""Sphinx configuration."""

from __future__ import annotations

import ast
import re
from importlib.metadata import version as distribution_version
from typing import Any, TypeVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

from aiopyramid.websocket import typed

project = "aiopyramid"
author = "the aiopyramid contributors"
release = version = distribution_version("aiopyramid-core")

# At run time these are None, which would be shown.
typed.In, typed.Out = TypeVar("In"), TypeVar("Out")
typed.In.__module__ = typed.Out.__module__ = "typing"  # shown without a module, then

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_title = f"aiopyramid {release}"

copybutton_prompt_text = "$ "

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 240  # counts the modules, which are not shown
autodoc_default_options = {"undoc-members": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Names of other projects, whose inventories are not fetched; and, below, what
# signatures are made of.
nitpick_ignore_regex = [
    (r"py:.*", r"(asyncio|collections|concurrent|functools|greenlet|gunicorn|threading|types)\..*"),
    (r"py:.*", r"(contextlib|contextvars|pyramid|socket|typing|websockets)\..*"),
    (r"py:.*", r"(webob|webtest|_typeshed|zope)\..*"),
    (r"py:.*", r"(bool|bytearray|bytes|float|int|list|memoryview|str|tuple|type|None|object)"),
    (r"py:.*", r"(\w+Error|Exception|BaseException)"),
    (r"py:.*", r"(Any|Awaitable|Callable|Coroutine|Executor|Extension|Iterable|Mapping|Option)"),
    (r"py:.*", r"(AsyncIterator|BytesLike|Configurator|Handshake|P\.\w+|P|Session|T|View|deque)"),
    (r"py:.*", r"aiopyramid\.\w+\.T|aiopyramid\.testing\.clients\.To\w+"),
    (r"py:.*", r"(Check|Class|CoroutineType|Decorator|Function|In|Method|Out|Typed|Within)"),
    (r"py:.*", r"aiopyramid\.websocket\.(scope|view)\.(Class|Decorator|Function|Method|P|T)"),
    (r"py:.*", r"(WSGIApplication|WebsocketProtocol|default_factory|Sequence)"),
]


def resolve_short_name(app: Sphinx, env: Any, node: Any, content: Any) -> Any:
    """Link a name in a docstring that stands without its module."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    found = sorted(
        (name, entry)
        for name, entry in env.domains.python_domain.objects.items()
        if name.endswith(f".{target}") and not entry.aliased
    )
    if not found:
        return None
    name, entry = found[0]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)


def keep_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Keep napoleon from taking what stands before a colon for an attribute's type."""
    if what in ("attribute", "property"):
        lines.insert(0, "\\")  # shows as nothing


def tidy(app: Sphinx, doctree: nodes.document) -> None:
    """Cut blank lines off the ends of files, and let pictures scroll where they are too wide."""
    for block in doctree.findall(nodes.literal_block):
        if block.rawsource == block.astext():  # else it is not highlighted
            block.rawsource = block.rawsource.rstrip()
            block.children = [nodes.Text(block.rawsource)]
    for image in list(doctree.findall(nodes.image)):
        image.replace_self(nodes.container("", image.deepcopy(), classes=["picture"]))
    for table in doctree.findall(nodes.table):
        label_cells(table)


def label_cells(table: nodes.table) -> None:
    """Repeat the heads of a table of text in its cells, for screens without room for columns."""
    heads, *rows = table.findall(nodes.row)
    is_text = "colwidths-given" in table["classes"] and list(table.findall(nodes.thead))
    if not is_text or len(heads) < 3:
        return
    table["classes"].append("cards")
    for row in rows:
        for head, cell in list(zip(heads, row, strict=True))[1:]:
            if not cell.children:
                cell["classes"].append("empty")
            elif head.children:
                label = nodes.paragraph("", "", *(n.deepcopy() for n in head[0]), classes=["label"])
                cell.insert(0, label)
                label += nodes.Text(": ")


def shorten(app: Sphinx, what: str, name: str, obj: Any, options: Any, sig: str, ret: str) -> Any:
    """Take the modules off the names in signatures that Sphinx does not parse."""
    try:
        ast.parse(f"def f{sig or '()'}: ...")
    except SyntaxError:
        return re.sub(r"~(\w+\.)*~?", "", sig), ret
    return None


def setup(app: Sphinx) -> None:
    """Register the functions above."""
    app.connect("doctree-read", tidy)
    app.connect("autodoc-process-signature", shorten)
    app.connect("missing-reference", resolve_short_name)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
