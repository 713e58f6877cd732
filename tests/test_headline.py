"""A headline and its picture travel from a notebook to a page."""

from __future__ import annotations

import base64

import nbformat
import pytest

from procbench.errors import InvalidInputError
from procbench.views.fragments import read_headline, to_fragment
from procbench.views.headline import HEADLINE_MIME, Headline, show_figure

EFFECT = {"ratio": 0.71, "low": 0.66, "high": 0.78, "confidence": 0.95, "blocks": 24, "noise_floor": 0.03}
HEADLINE = Headline("Stealing", "Stealing helps.", {**EFFECT, "verdict": "faster"}, "A rising line.")


def executed(*bundles, tags=("headline",)):
    """Return a notebook whose one cell showed the bundles."""
    outputs = []
    for bundle in bundles:
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        outputs.append(nbformat.v4.new_output("display_data", data, metadata=metadata))
    cell = nbformat.v4.new_code_cell("...", outputs=outputs, metadata={"tags": list(tags)})
    return nbformat.v4.new_notebook(cells=[cell])


def figure():
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(2, 1))
    drawn.subplots().plot([1, 2])
    return drawn


def test_a_headline_comes_back_from_a_notebook_as_it_was_shown():
    notebook = nbformat.reads(nbformat.writes(executed(HEADLINE._repr_mimebundle_())), 4)
    assert read_headline(notebook)[0] == HEADLINE


def test_the_plain_text_says_the_sentence_and_the_interval():
    text = HEADLINE._repr_mimebundle_()["text/plain"]
    assert "Stealing helps." in text
    assert "ratio 0.71, 95 % interval 0.66 to 0.78, 24 blocks, noise floor 3 %, faster" in text


def test_markup_in_a_headline_is_text_in_its_html():
    """R14: what a command is called never becomes markup."""
    page = Headline("<script>x</script>", "<img src=x onerror=y>")._repr_mimebundle_()["text/html"]
    assert "<script" not in page
    assert "<img" not in page


def test_numpy_numbers_become_plain_json_and_what_is_not_finite_becomes_nothing():
    import numpy

    effect = Headline("t", "s", {"ratio": numpy.float64(0.5), "blocks": numpy.int64(3), "low": float("nan")}).to_json()[
        "effect"
    ]
    assert effect == {"ratio": 0.5, "blocks": 3, "low": None}
    assert {type(value) for value in effect.values()} == {float, type(None)}


@pytest.mark.parametrize(
    "effect",
    [
        None,
        [],
        "0.7",
        {},
        {"ratio": "0.7", "low": 0.6, "high": 0.8},
        {"ratio": 0, "low": 0, "high": 0},
        {"ratio": -1, "low": 0.6, "high": 0.8},
        {"ratio": float("inf"), "low": 0.6, "high": 0.8},
        {"ratio": True, "low": True, "high": True},
    ],
)
def test_an_effect_that_cannot_be_drawn_is_dropped_and_the_sentence_stays(effect):
    headline = Headline.from_json({"title": "t", "sentence": "s", "effect": effect})
    assert headline.effect is None
    assert headline.effect_text() == ""


@pytest.mark.parametrize(("low", "high"), [(0, None), (None, None), (0, 0), (2, 1), ("1", "2"), (1, float("inf"))])
def test_an_interval_that_is_none_stays_out_and_the_ratio_stays(low, high):
    """An effect of too few blocks has the interval 0 to infinity, which JSON writes as 0 and null."""
    effect = {"ratio": 1.2, "low": low, "high": high, "blocks": 2, "condition": "stealing", "baseline": "static"}
    headline = Headline.from_json({"title": "t", "sentence": "s", "effect": effect})
    assert headline.effect_text() == "stealing against static: ratio 1.2, interval unknown, 2 blocks"
    assert not {"low", "high"} & set(headline.effect)


@pytest.mark.parametrize("data", [None, 3, [], "{", "[]", {"title": "t"}, {"title": 1, "sentence": "s"}])
def test_what_is_no_headline_is_refused(data):
    with pytest.raises(InvalidInputError):
        Headline.from_json(data)


def test_a_damaged_headline_is_passed_over_for_the_next_one():
    notebook = executed({HEADLINE_MIME: {"title": 1}}, HEADLINE._repr_mimebundle_())
    assert read_headline(notebook)[0] == HEADLINE


def test_the_small_picture_is_the_first_png_of_a_tagged_cell():
    shown = show_figure(figure(), "A line.")._repr_mimebundle_()
    assert read_headline(executed(shown))[1] == shown[0]["image/png"]
    assert read_headline(executed(shown, tags=()))[1] is None


def test_a_shown_figure_stands_once_on_the_page_with_its_alt_text():
    """R14: the alt text survives the export, and markup in it stays text."""
    alt = 'Rises "fast" & <b>far</b>'
    page = to_fragment(executed(show_figure(figure(), alt)._repr_mimebundle_()))
    assert page.count("<img") == 1
    from bs4 import BeautifulSoup

    image = BeautifulSoup(page, "html.parser").img
    assert image["alt"] == alt
    assert base64.b64decode(image["src"].partition(",")[2]).startswith(b"\x89PNG")


def test_a_shown_figure_of_pyplot_is_closed_so_that_it_is_not_shown_again():
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    drawn, _ = pyplot.subplots(figsize=(1, 1))
    show_figure(drawn, "Nothing.")
    assert drawn.number not in pyplot.get_fignums()


def test_a_figure_without_words_is_refused():
    with pytest.raises(InvalidInputError, match="alt text"):
        show_figure(figure(), "  ")


def test_the_width_of_a_shown_figure_is_in_css_pixels():
    narrow, wide = show_figure(figure(), "x", scale=1), show_figure(figure(), "x", scale=2)
    assert abs(narrow.width_px - wide.width_px) < 5
    assert len(wide.png) > len(narrow.png)
