"""Every block of the README and the guide runs, or says why not."""

import inspect
import os
import re
import shlex

import pytest
import torch

import hydragrad
import small_texts
from documents import APPLICATIONS, ROOT, blocks, is_ours, parse, run_page

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = [page for page in PAGES if any(b.reason is None and b.language in ("python", "console") for b in blocks(page))]
REFERENCE_PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
REFERENCE = "\n".join(path.read_text() for path in REFERENCE_PAGES)
LANGUAGES = {"python", "console", "text", "{toctree}", "{eval-rst}", "{image}"}
PUBLIC = [name for name in hydragrad.__all__ if not inspect.ismodule(getattr(hydragrad, name))]


def named(pages):
    return [pytest.param(page, id=page.stem) for page in pages]


@pytest.mark.parametrize("page", named(RUN))
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if "HYDRAGRAD_DATA" not in os.environ:
        small_texts.install(monkeypatch, tmp_path / "text")
        monkeypatch.setenv("HYDRAGRAD_DATA", str(tmp_path))
    torch.manual_seed(0)
    run_page(page, tmp_path)


@pytest.mark.parametrize("page", named(PAGES))
def test_what_is_not_run_would_be_understood(page):
    for block in blocks(page):
        for words in block.commands or plain_commands(block):
            if is_ours(words):
                parse(words)
            elif words[0] == "make":
                target = words[1]
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), target


def plain_commands(block):
    """Commands of blocks without prompts, as the page of results has them."""
    lines = block.body.replace("\\\n", " ").splitlines()
    starts = tuple(" ".join(start) + " " for start in APPLICATIONS)
    return [shlex.split(line, comments=True) for line in lines if line.startswith(starts)]


@pytest.mark.parametrize("page", named(page for page in PAGES if page.stem != "results"))
def test_every_block_says_what_it_is(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{page.name}:{block.line}: {block.language or 'no language'}"


@pytest.mark.parametrize("page", named(PAGES))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?:|#", target):
            file = (page.parent / target.split("#")[0]).resolve()
            assert file.exists() or file.name == "commands.md", f"{page.name}: {target}"


def test_the_reference_names_everything_public():
    missing = [name for name in PUBLIC if not re.search(rf"auto\w+:: hydragrad\.{name}\n", REFERENCE)]
    assert len(PUBLIC) > 15 and not missing, missing


@pytest.mark.parametrize("page", named(page for page in REFERENCE_PAGES if page.stem not in ("types", "errors")))
def test_a_page_of_functions_in_the_reference_names_nothing_internal(page):
    internal = [name for name in re.findall(r"auto\w+:: hydragrad\.(\S+)", page.read_text()) if name not in PUBLIC]
    assert not internal, internal
