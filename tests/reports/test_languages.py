import json
import string
from pathlib import Path

import pytest

from stablegrad.errors import UsageError
from stablegrad.reports import languages
from stablegrad.reports.languages import LANGUAGES, Words

FOLDER = Path(languages.__file__).parent
CATALOGUES = {language: json.loads((FOLDER / f"{language}.json").read_text()) for language in LANGUAGES}


def fields(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_language_has_the_same_texts_with_the_same_values():
    first, *others = LANGUAGES
    for other in others:
        assert CATALOGUES[other].keys() == CATALOGUES[first].keys()
        # A language may leave a value out where its sentence does not need it, but never name one that is not given.
        for key, text in CATALOGUES[other].items():
            assert fields(text) <= fields(CATALOGUES[first][key]) | {"baseline", "candidate"}, key
    assert {path.stem for path in FOLDER.glob("*.json")} == set(LANGUAGES)


def test_japanese_sentences_are_polite_and_headings_are_not():
    texts = CATALOGUES["ja"]
    for key, text in texts.items():
        group = key.partition(".")[0]
        if group in ("answer", "detail", "recommend", "risk", "break_even"):
            assert text.endswith("。") and text.removesuffix("。").endswith(
                ("です", "ます", "ません", "でした", "ました", "ましょう", "{went}（{certainty}）")
            ), key
        if group in ("heading", "column", "stage"):
            assert not text.endswith(("。", "です", "ます")), key


def test_a_wrong_language_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="unknown language 'jp'; did you mean 'ja'") as error:
        Words("jp")
    assert "\n" not in str(error.value)


def test_numbers_are_written_as_readers_expect_them():
    english, japanese = Words("en"), Words("ja")
    assert [english.count(value) for value in (7, 9_999, 52_298, 1_250_000, 450_000_000)] == [
        *("7", "9,999", "52.3 thousand", "1.25 million", "450 million")
    ]
    assert [japanese.count(value) for value in (7, 9_999, 52_298, 1_250_000, 450_000_000)] == [
        *("7", "9,999", "5.23万", "125万", "4.5億")
    ]
    assert [english.count(52_298, short=True), japanese.count(52_298, short=True)] == ["52k", "5.2万"]
    assert [english.duration(seconds) for seconds in (4.5, 200, 7500)] == ["4.50 s", "3 min 20 s", "2 h 5 min"]
    assert [japanese.duration(seconds) for seconds in (4.5, 200, 7500)] == ["4.50秒", "3分20秒", "2時間5分"]
    assert [english.money(value, "USD") for value in (1234.5, 0.004, 0)] == ["USD 1,234.50", "USD 0.004", "USD 0.00"]
    assert [english.money(1234.5, "JPY"), japanese.money(1234.5, "JPY")] == ["JPY 1,234", "1,234円"]
    assert japanese.money(12.3, "USD") == "12.30 USD"


def test_values_cannot_be_markup():
    assert (
        str(Words("en")("answer.better", candidate="<b>", baseline="&")) == "Yes: &lt;b&gt; is better than &amp; here."
    )
