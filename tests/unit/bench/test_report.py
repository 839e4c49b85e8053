import re
from pathlib import Path

import pytest
from bench.harness import Results
from bench.plots import bars
from bench.report import fill, section, wan_decode_plot, wan_headline_plot

DOCS = Path(__file__).parents[3] / "docs"
PAGE = "head\n<!-- bench:a -->\nold\n<!-- /bench:a -->\ntail\n"


def test_a_section_is_replaced_between_its_marks() -> None:
    """The rest of the page stays, and filling in twice gives the same."""
    once = fill(PAGE, "a", r"new \1")
    assert once == "head\n<!-- bench:a -->\n\nnew \\1\n<!-- /bench:a -->\ntail\n"
    assert fill(once, "a", r"new \1") == once


def test_a_page_without_marks_is_refused() -> None:
    """The error says which marks are missing."""
    with pytest.raises(ValueError, match="bench:b"):
        fill(PAGE, "b", "new")


def test_a_section_has_the_programs_tables_under_the_pages_title() -> None:
    """Where the figures come from is one line; long paragraphs are wrapped and tables are not."""
    results = Results(name="a", title="A")
    results.environment = {"date": "today", "machine": "here", "versions": "all", "command": "python -m bench.a"}
    results.paragraphs = ["word " * 40, f"| {'long ' * 40}|\n| --- |\n| 1 |"]
    head, *paragraph, table, rule, row = section("a", results.markdown(), results.environment).splitlines()
    assert head == "`python -m bench.a`<br>"
    assert paragraph[:2] == ["today; here. [Figures, load and versions](benchmarks/a.json).", ""]
    assert max(map(len, paragraph)) <= 120
    assert (len(table), rule, row) == (len(results.paragraphs[1].splitlines()[0]), "| --- |", "| 1 |")


def test_the_page_links_figures_that_are_there() -> None:
    """Each pair of marks with something between has its JSON file, and each link to one leads somewhere."""
    page = (DOCS / "benchmarks.md").read_text()
    named = re.findall(r"<!-- bench:([a-z-]+) -->\n(?!<!-- /bench)", page)
    linked = re.findall(r"\]\(benchmarks/([a-z0-9-]+)\.json\)", page)
    assert set(named) <= set(linked)
    assert set(linked) == {file.stem for file in (DOCS / "benchmarks").iterdir()}


def test_the_longest_bar_fills_the_room() -> None:
    """Bars are drawn from zero, in proportion."""
    chart = bars("t", [("one & ours", 1.0), ("two", 2.0)], "GB/s", "ours")
    assert 'width="175.0"' in chart
    assert 'width="350.0"' in chart
    assert "one &amp; ours" in chart


def test_wans_plots_read_what_its_parts_write() -> None:
    """One bar a way; ours stand out by their name, without the table's asterisks."""
    decode = {
        "flop": [275e12],
        "sizes": [{"diffusers": {"seconds": 2.75}, "ours-2": {"seconds": 0.55}}],
        "error_clip": {"height": 480, "width": 832},
    }
    chart = wan_decode_plot(decode)
    assert "100 TFLOP/s" in chart
    assert "500 TFLOP/s" in chart
    assert ">Framehaul, 2 latents a step<" in chart
    assert "6.05 s" in wan_headline_plot({"headline": {"serial": {"wall_s": 6.05}}})
