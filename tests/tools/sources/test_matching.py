"""Names in tables and photographs on disk."""

from unicodedata import normalize

import pytest

from pipeline.photos.discovery import Found
from tools.sources.columns import Columns
from tools.sources.label_tables import LabelTable
from tools.sources.matching import Names
from tools.sources.scales import ICDR


def names(*sources: str) -> Names:
    return Names(Found(source, 1, 0, 0) for source in sources)


def table(source: str) -> LabelTable:
    return LabelTable(source, "", Columns(0, 1), [], ICDR)


def test_a_suffix_may_be_there_or_not_and_of_any_case() -> None:
    of = names("IMAGES/IM000.JPG", "x/1.2.840.113", "x/2.5")
    for name in ("IM000", "IM000.JPG", "IM000.jpg", "IM000.tif", "IMAGES/IM000.jpg"):
        assert of.find(name)[1] == ["IMAGES/IM000.JPG"]
    assert of.find("1.2.840.113")[1] == ["x/1.2.840.113"]
    assert of.find("2.5")[1] == ["x/2.5"]


def test_folders_may_be_missing_at_the_start_in_the_middle_and_above_src() -> None:
    of = names("regular/training/Images/1/1_l1.jpg", "regular/training/Images/2/2_l1.jpg")
    for name in (r"\training\1\1_l1.jpg", "Images/1/1_l1.jpg", "1/1_l1.jpg", "/training/Images/1/1_l1.jpg"):
        assert of.find(name)[1] == ["regular/training/Images/1/1_l1.jpg"]
    assert of.find("data/set/regular/training/Images/1/1_l1.jpg")[1] == ["regular/training/Images/1/1_l1.jpg"]


def test_the_tables_own_folder_comes_first() -> None:
    of = names("train/1.jpg", "test/1.jpg", "img/1.jpg")
    assert of.find("1.jpg", table("train/metadata.csv"))[1] == ["train/1.jpg"]
    assert of.find("1.jpg", table("test/metadata.csv"))[1] == ["test/1.jpg"]
    assert of.find("../img/1.jpg", table("train/metadata.csv"))[1] == ["img/1.jpg"]


def test_then_the_folder_of_the_tables_split() -> None:
    of = names("a. Training Set/IDRiD_001.jpg", "b. Testing Set/IDRiD_001.jpg")
    for word, folder in (("Training", "a. Training Set"), ("Testing", "b. Testing Set")):
        assert of.find("IDRiD_001", table(f"truth/IDRiD {word} Labels.csv"))[1] == [f"{folder}/IDRiD_001.jpg"]


def test_a_name_that_several_folders_have_is_refused_and_names_them() -> None:
    with pytest.raises(ValueError, match=r"several folders, write the folder too: A/3_left\.jpg, B/3_left\.jpg"):
        names("A/3_left.jpg", "B/3_left.jpg").find("3_left")


@pytest.mark.parametrize("name", ["../1.jpg", "../../etc/passwd", "/etc/passwd", r"C:\photos\2.jpg", r"..\..\1.jpg"])
def test_no_name_leads_out(name: str) -> None:
    with pytest.raises(ValueError, match=r"leads out|on another computer"):
        names("1.jpg").find(name)


def test_one_name_in_two_forms_of_unicode() -> None:
    composed, decomposed = (normalize(form, "Müller_é") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert names(f"x/{decomposed}.jpg").find(composed)[1] == [f"x/{decomposed}.jpg"]
    assert names(f"x/{composed}.jpg").find(f"x/{decomposed}.jpg")[1] == [f"x/{composed}.jpg"]


def test_of_one_stem_the_usual_suffix() -> None:
    of = names("1.jpg", "1.png", "2.jpg")
    assert of.find("1")[1] == ["1.jpg"]
    assert of.find("1.png")[1] == ["1.png"]


def test_a_member_of_an_archive() -> None:
    of = names("a.parquet#0", "a.parquet#1", "b.zip#train/1_left.jpeg")
    assert of.find("a.parquet#1")[1] == ["a.parquet#1"]
    assert of.find("1_left")[1] == ["b.zip#train/1_left.jpeg"]
