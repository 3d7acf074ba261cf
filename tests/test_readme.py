"""README.md, and README_CN.md, which has the same content in Chinese."""

import re
from collections import Counter

import pytest

from tests.support.builds import ROOT

ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README_CN.md"))


def code_blocks(text):
    return re.findall(r"```.*?```|(?:^    [^\n]*\n)+", text, re.DOTALL | re.MULTILINE)


def code_and_figures(text):
    """How often each piece of inline code, each link and each number occurs in a text."""
    found = re.findall(r"`([^`]+)`|\]\(([^)]+)\)|(\d[\d.]*)", text.replace("```python", "").replace("```", ""))
    pieces = Counter("".join(groups).rstrip(".") for groups in found)
    return {piece: count for piece, count in pieces.items() if piece not in ("README.md", "README_CN.md")}


def test_code_blocks_are_the_same_in_both_languages():
    assert code_blocks(ENGLISH)
    assert code_blocks(CHINESE) == code_blocks(ENGLISH)


def test_code_and_figures_are_the_same_in_both_languages():
    assert code_and_figures(CHINESE) == code_and_figures(ENGLISH)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["English", "Chinese"])
def test_readme_is_short_and_its_links_lead_somewhere(text):
    assert text.count("\n") <= 180
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, heading = link.partition("#")
        if "://" not in link:
            assert (ROOT / path).exists(), link
            headings = [
                re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
                for line in ((ROOT / path).read_text(encoding="utf-8") if heading else "").split("\n")
                if line.startswith("#")
            ]
            assert not heading or heading in headings, link
