"""Public data sets, drawn small as they lie after their download, and descriptions that users write."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.errors import SourceError
from tools.sources.columns import ColumnOptions
from tools.sources.evidence import SourceOptions
from tools.sources.known_sets import known_sets, read_description
from tools.sources.layouts import list_source
from tools.sources.listing import Listing
from tools.sources.scales import known_scales, open_scale, parse_words


def draw(folder: Path, *names: str, seed: int = 0) -> None:
    """Pictures of 48 px, no two alike."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng((seed, number)).integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(noise).resize((48, 48)).save(path)


def write(folder: Path, **tables: str) -> None:
    """Tables by name, `__` for the dot before the suffix."""
    for name, text in tables.items():
        (folder / name.replace("__", ".")).write_text(text)


def grades(listing: Listing) -> dict[str, int]:
    return {sample.id.rpartition("/")[2]: sample.grade for sample in listing.samples}


def flagged(listing: Listing) -> set[str]:
    return {sample.id for sample in listing.samples if sample.ungradable}


def about(listing: Listing) -> dict[str, tuple[str, str, str]]:
    """Split, patient and eye of each photograph."""
    return {sample.id: (sample.split, sample.patient, sample.eye) for sample in listing.samples}


def said(listing: Listing) -> str:
    return "\n".join(listing.notes)


def test_every_entry_says_what_a_reader_of_the_page_needs() -> None:
    for known in known_sets().values():
        assert known.home.startswith("https://")
        assert all((known.title, known.lies, known.patients, known.wrong, known.checked)), known.name
        assert known.command.startswith("tools preprocess ")
        assert bool(known.counts) == bool(known.counts_source), known.name
        assert (f"--scale {known.scale}" in known.command) == bool(known.scale), known.name
        assert known.graded or not known.counts


def test_ddr_is_known_by_the_names_of_its_photographs_of_both_kinds(tmp_path: Path) -> None:
    names = {"train": ("007-0004-000", "007-0005-100"), "valid": ("20170413102628830", "20170413102628831")}
    for split, (graded, ungradable) in names.items():
        draw(tmp_path, f"{split}/{graded}.jpg", f"{split}/{ungradable}.jpg")
        write(tmp_path, **{f"{split}__txt": f"{graded}.jpg 2\n{ungradable}.jpg 5\n"})
    listing = list_source(tmp_path)
    assert flagged(listing) == {"007-0005-100", "20170413102628831"}
    assert not listing.refused
    assert "train.txt: read as DDR" in listing.notes


def test_a_clinics_train_txt_is_not_ddr_and_its_5_is_refused(tmp_path: Path) -> None:
    draw(tmp_path, "train/a1.jpg", "train/a2.jpg", "train/a3.jpg")
    write(tmp_path, train__txt="a1.jpg 2\na2.jpg 5\na3.jpg 0\n")
    listing = list_source(tmp_path)
    assert grades(listing) == {"a1": 2, "a3": 0}
    assert listing.refused[0].reason == "train.txt:2: grade '5' is not in 0..4"
    assert "DDR" not in said(listing)


def test_a_clinics_image_level_is_no_known_set(tmp_path: Path) -> None:
    draw(tmp_path, "1_left.jpg", "1_right.jpg")
    write(tmp_path, trainLabels__csv="image,level\n1_left,0\n1_right,2\n")
    assert "read as" not in said(list_source(tmp_path))


def test_a_clinics_quality_column_is_asked_about_and_not_read_as_eyeqs(tmp_path: Path) -> None:
    draw(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path, labels__csv="image,quality,DR_grade\na.jpg,0,2\nb.jpg,2,0\n")
    with pytest.raises(SourceError, match="--gradable-column 'quality="):
        list_source(tmp_path)
    (tmp_path / "labels.csv").rename(tmp_path / "Label_EyeQ_train.csv")
    assert flagged(list_source(tmp_path)) == {"b"}


def test_eyepacs_whole_table_with_few_photographs_says_what_is_missing(tmp_path: Path) -> None:
    draw(tmp_path, "train/1_left.jpeg", "train/1_right.jpeg", "test/2_left.jpeg")
    rows = [f"{number}_{eye},{number % 3}" for number in range(1, 20_000) for eye in ("left", "right")]
    write(tmp_path, trainLabels__csv="image,level\n" + "\n".join(rows) + "\n")
    assert (
        "EyePACS (Kaggle 2015): 3 graded photographs, by grade 0 / 2 / 1 / 0 / 0; published are 35,126 of "
        "trainLabels.csv: 25,810 / 2,443 / 5,292 / 873 / 708 (trainLabels.csv of the competition)"
    ) in list_source(tmp_path).notes


def test_counts_that_are_the_published_ones_are_not_spoken_of(tmp_path: Path) -> None:
    arrays = {}
    retinamnist = {"train": [486, 128, 206, 194, 66], "val": [54, 12, 28, 20, 6], "test": [174, 46, 92, 68, 20]}
    for split, of in retinamnist.items():
        labels = np.repeat(np.arange(5), of)[:, None]
        arrays |= {f"{split}_images": np.zeros((len(labels), 4, 4, 3), np.uint8), f"{split}_labels": labels}
    np.savez(tmp_path / "retinamnist.npz", **arrays)
    listing = list_source(tmp_path / "retinamnist.npz")
    assert len(listing.samples) == 1600
    assert listing.notes == []
    arrays["test_labels"][0] = 4
    np.savez(tmp_path / "retinamnist.npz", **arrays)
    assert "by grade 713 / 186 / 326 / 282 / 93; published are 1,600" in said(list_source(tmp_path / "retinamnist.npz"))


def test_medmnist_of_other_organs_gets_no_grades(tmp_path: Path) -> None:
    arrays = {f"{split}_images": np.zeros((2, 4, 4), np.uint8) for split in ("train", "val", "test")}
    arrays |= {f"{split}_labels": np.array([[0], [1]]) for split in ("train", "val", "test")}
    np.savez(tmp_path / "breastmnist_64.npz", **arrays)
    for src in (tmp_path, tmp_path / "breastmnist_64.npz"):
        with pytest.raises(SourceError, match=r"only retinamnist\.npz has grades"):
            list_source(src)


def test_aptos_says_how_many_there_are_and_leaves_its_test_part_ungraded(tmp_path: Path) -> None:
    draw(tmp_path, "train_images/000c1434d8d7.png", "train_images/001639a390f0.png", "test_images/0005cfc8afb6.png")
    write(
        tmp_path, train__csv="id_code,diagnosis\n000c1434d8d7,2\n001639a390f0,4\n", test__csv="id_code\n0005cfc8afb6\n"
    )
    listing = list_source(tmp_path)
    assert grades(listing) == {"000c1434d8d7": 2, "001639a390f0": 4}
    assert listing.data_set == "APTOS 2019"
    assert "APTOS 2019: 2 graded photographs, by grade 0 / 0 / 1 / 0 / 1; published are 3,662" in said(listing)


def test_idrid_is_known_by_its_names(tmp_path: Path) -> None:
    draw(tmp_path, "a. Training Set/IDRiD_001.jpg", "a. Training Set/IDRiD_002.jpg", "b. Testing Set/IDRiD_001.jpg")
    header = "Image name,Retinopathy grade,Risk of macular edema ,,\n"
    (tmp_path / "a. Training Labels.csv").write_text(f"{header}IDRiD_001,3,1,,\nIDRiD_002,0,0,,\n")
    (tmp_path / "b. Testing Labels.csv").write_text(f"{header}IDRiD_001,1,0,,\n")
    listing = list_source(tmp_path)
    assert listing.data_set == "IDRiD, disease grading"
    assert sorted((sample.grade, sample.split) for sample in listing.samples) == [
        (0, "train"), (1, "test"), (3, "train"),
    ]  # fmt: skip
    assert "IDRiD, disease grading: 3 graded photographs" in said(listing)


@pytest.mark.parametrize("header", ["image_id,adjudicated_dr_grade", "id_code,diagnosis"])
def test_messidor_2_and_its_reupload_which_writes_0_for_ungradable(tmp_path: Path, header: str) -> None:
    draw(tmp_path, "IMAGES/a.JPG", "IMAGES/b.JPG")
    grade = "" if "adjudicated_dr" in header else "0"
    write(tmp_path, m__csv=f"{header},adjudicated_dme,adjudicated_gradable\na.jpg,2,0,1\nb.jpg,{grade},0,0\n")
    listing = list_source(tmp_path)
    assert grades(listing) == {"a": 2, "b": -1}
    assert flagged(listing) == {"b"}
    assert "Messidor-2, grades of Krause et al. 2018: 1 graded photographs" in said(listing)


def test_deepdrid_ultra_widefield_5_is_ungradable_and_position_is_the_eye(tmp_path: Path) -> None:
    for part, patient in (("training", 1), ("validation", 34)):
        base = f"ultra-widefield-{part}"
        draw(tmp_path, *(f"{base}/Images/{patient}/{patient}_{eye}1.jpg" for eye in "lr"), seed=patient)
        rows = "".join(
            f"{patient},{patient}_{eye}1,{base}\\{patient}\\{patient}_{eye}1.jpg,{grade},{eyes}_eye\n"
            for eye, eyes, grade in (("l", "left", 2), ("r", "right", 5))
        )
        table = f"patient_id,image_id,image_path,DR_level,position\n{rows}"
        (tmp_path / base / f"{base}.csv").write_text(table)
    base = "Online-Challenge3-Evaluation"
    draw(tmp_path, f"{base}/Images/90/90_l1.jpg", f"{base}/Images/90/90_r1.jpg", seed=90)
    (tmp_path / base / "Challenge3_upload.csv").write_text("image_id,DR_level\n90_l1,\n90_r1,\n")
    (tmp_path / base / "Challenge3_labels.csv").write_text("image_id,UWF_DR_Levels\n90_l1,3\n90_r1,5\n")
    listing = list_source(tmp_path)
    assert grades(listing) == {"1_l1": 2, "1_r1": -1, "34_l1": 2, "34_r1": -1, "90_l1": 3, "90_r1": -1}
    told = {id.rpartition("/")[2]: its for id, its in about(listing).items()}
    assert told["1_l1"] == ("train", "1", "left")
    assert told["34_l1"] == ("val", "34", "left")
    assert told["90_l1"][0] == "test"
    assert not listing.refused


def test_brset_reads_icdr_of_its_two_scales(tmp_path: Path) -> None:
    draw(tmp_path, "fundus_photos/img00001.jpg", "fundus_photos/img00002.jpg")
    header = "image_id,patient_id,exam_eye,DR_SDRG,DR_ICDR,quality\n"
    write(tmp_path, labels_brset__csv=f"{header}img00001,1,1,1,2,Adequate\nimg00002,1,2,3,4,Inadequate\n")
    listing = list_source(tmp_path)
    assert grades(listing) == {"img00001": 2, "img00002": -1}
    assert about(listing)["img00001"][1:] == ("1", "right")
    assert flagged(listing) == {"img00002"}


def test_mbrset_floats_and_blanks(tmp_path: Path) -> None:
    draw(tmp_path, "images/1.1.jpg", "images/1.2.jpg")
    header = "patient,age,file,laterality,final_artifacts,final_quality,final_icdr,final_edema\n"
    write(tmp_path, labels_mbrset__csv=f"{header}1,50,1.1.jpg,right,no,yes,2.0,no\n1,50,1.2.jpg,left,no,yes,,no\n")
    listing = list_source(tmp_path)
    assert grades(listing) == {"1.1": 2, "1.2": -1}
    assert about(listing)["1.1"][1:] == ("1", "right")
    assert flagged(listing) == {"1.2"}


def test_fgadrs_masks_have_soft_edges_and_are_left_out(tmp_path: Path) -> None:
    names = [f"{number:04d}_1.png" for number in range(12)]
    draw(tmp_path, *(f"Original_Images/{name}" for name in names))
    for number, name in enumerate(names):
        for lesion in ("Hemohedge_Masks", "HardExudate_Masks"):
            (tmp_path / lesion).mkdir(exist_ok=True)
            mask = Image.new("L", (48, 48))
            if number:  # the first eye has no lesion: its mask is empty
                ImageDraw.Draw(mask).ellipse((10, 10, 14 + number, 16), 255)
            mask.resize((40, 40), Image.Resampling.BILINEAR).save(tmp_path / lesion / name)
    write(tmp_path, DR_Seg_Grading_Label__csv="".join(f"{name},{n % 5}\n" for n, name in enumerate(names)))
    listing = list_source(tmp_path)
    assert grades(listing) == {name.removesuffix(".png"): n % 5 for n, name in enumerate(names)}
    assert {refusal.reason for refusal in listing.ignored} == {"a mask, no photograph"}
    assert "FGADR, Seg-set: 12 graded photographs, by grade 3 / 3 / 2 / 2 / 2; published are 1,842" in said(listing)


SUSTECH = "DR_grade(International_Clinical_DR_Severity_Scale),DR_grade(American_Academy_of_Ophthalmology)"


def test_sustechs_5_has_its_grade_in_the_second_table(tmp_path: Path) -> None:
    draw(tmp_path, "originalImages/0001.jpg", "originalImages/0002.jpg", "originalImages/0003.jpg")
    rows = "0001.jpg,0,1,0\n0002.jpg,1,5,5\n0003.jpg,1,5,5\n"
    write(
        tmp_path / "originalImages",
        drLabels__csv=f"Fundus_images,left_versus_right_eye(left_0_right_1),{SUSTECH}\n{rows}",
        c5_DR_reclassified__csv=f"Fundus_images,{SUSTECH}\n0002.jpg,4,3\n",
    )
    listing = list_source(tmp_path)
    assert grades(listing) == {"0001": 1, "0002": 4}
    assert about(listing)["0001"][2] == "left"
    assert about(listing)["0002"][2] == "right"
    assert listing.refused[0].reason == "drLabels.csv:4: '5' is no grade here, and no other table has one"


PARAGUAY = ["1. No DR signs", "2. Mild (or early) NPDR", "3. Moderate NPDR", "4. Severe NPDR", "5. Very Severe NPDR",
            "6. PDR", "7. Advanced PDR"]  # fmt: skip


def test_paraguay_needs_its_scale(tmp_path: Path) -> None:
    for number, folder in enumerate(PARAGUAY):
        draw(tmp_path, f"{folder}/{number}a.jpg", seed=number)
    with pytest.raises(SourceError, match=r"folders of .*Paraguay.*whose scale is not ICDR; --scale paraguay"):
        list_source(tmp_path)
    listing = list_source(tmp_path, SourceOptions(scale=open_scale("paraguay")))
    assert list(grades(listing).values()) == [0, 1, 2, 3, 3, 4, 4]
    assert "7 graded photographs, by grade 1 / 1 / 1 / 2 / 2; published are 757" in said(listing)


@pytest.mark.parametrize(
    "names",
    [
        ("anodr", "bmilddr", "cmoderatedr", "dseveredr", "eproliferativedr"),
        ("anoDR", "bmildDR", "cmoderateDR", "dsevereDR", "eproDR"),
        ("a_noDR", "b_mildDR", "c_moderateDR", "d_severeDR", "e_proDR"),
        ("nodr", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr"),
        ("No_DR", "Mild", "Moderate", "Severe", "Proliferate_DR"),
    ],
)
def test_folders_of_retfound_gdrbench_and_reuploads(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert [parse_words(name) for name in names] == [0, 1, 2, 3, 4]
    for split in ("train", "val", "test"):
        for grade, name in enumerate(names):
            draw(tmp_path, f"{split}/{name}/{split}{grade}.png", seed=grade)
    listing = list_source(tmp_path)
    assert {(s.id, s.grade, s.split) for s in listing.samples} == {
        (f"{split}{grade}", grade, split) for split in ("train", "val", "test") for grade in range(5)
    }


@pytest.mark.parametrize(
    ("table", "text", "column"),
    [
        ("train_labels.csv", "challenge_id,class\n{0},RG\n{1},NRG\n", "class"),
        ("RFMiD_Training_Labels.csv", "ID,Disease_Risk,DR,ARMD\n{0},1,1,0\n{1},0,0,0\n", "DR"),
        ("odir.csv", "ID,Left-Fundus,Right-Fundus,Left-Diagnostic Keywords,N,D\n0,{0}.jpg,{1}.jpg,x,0,1\n", "D"),
        ("mmac.csv", "image,myopic_maculopathy_grade,age\n{0}.jpg,4,50\n{1}.jpg,0,60\n", "myopic_maculopathy_grade"),
    ],
)
def test_nothing_is_made_a_grade_where_the_set_has_none(tmp_path: Path, table: str, text: str, column: str) -> None:
    draw(tmp_path, "0/TRAIN0.jpg", "1/TRAIN1.jpg")
    (tmp_path / table).write_text(text.format("TRAIN0", "TRAIN1"))
    with pytest.raises(
        SourceError, match="which has no grades of diabetic retinopathy"
    ):  # folders 0 and 1 are no grades
        list_source(tmp_path, SourceOptions(columns=ColumnOptions({"grade": column})))
    with pytest.raises(SourceError, match="which has no grades of diabetic retinopathy"):
        list_source(tmp_path)
    listing = list_source(tmp_path, SourceOptions(layout="tables"))
    assert set(grades(listing).values()) == {-1}
    assert "which has no grades of diabetic retinopathy" in listing.warnings[0]


def test_classes_of_other_diseases_and_folders_of_masks_are_no_grades(tmp_path: Path) -> None:
    draw(tmp_path / "jsiec", "0.0.Normal/a.jpg", "0.3.DR1/b.jpg", "1.0.DR2/c.jpg", "1.1.DR3/d.jpg")
    draw(tmp_path / "eophtha", "MA/E1/C1.jpg", "healthy/E2/C2.jpg")
    for name in ("jsiec", "eophtha"):
        assert set(grades(list_source(tmp_path / name)).values()) == {-1}


# --- a user's own description

OWN = """
title = "Our clinic, 2019 to 2024"
columns = { photograph = "Datei", grade = "Stadium", patient = "Fall", eye = "Auge", gradable = "Bild" }
eyes = { R = "right", L = "left" }
gradable = ["gut", "brauchbar"]
codes = { x = "ungradable", "2a" = 2 }
blank = "ungradable"
"""
OWN_TABLE = (
    "Datei;Fall;Auge;Bild;Stadium\n"
    "1.jpg;F1;R;gut;0\n2.jpg;F1;L;brauchbar;2a\n3.jpg;F2;R;gut;x\n4.jpg;F2;L;schlecht;3\n5.jpg;F3;R;gut;\n"
)


def described(folder: Path, text: str) -> SourceOptions:
    (folder / "own.toml").write_text(text)
    return SourceOptions(layout=read_description(folder / "own.toml"))


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    draw(tmp_path / "src", *(f"{number}.jpg" for number in range(1, 6)))
    write(tmp_path / "src", liste__csv=OWN_TABLE)
    return tmp_path


def test_a_description_tells_columns_codes_eyes_and_what_is_gradable(clinic: Path) -> None:
    listing = list_source(clinic / "src", described(clinic, OWN))
    assert grades(listing) == {"1": 0, "2": 2, "3": -1, "4": -1, "5": -1}
    assert flagged(listing) == {"3", "4", "5"}
    assert about(listing)["1"] == ("", "F1", "right")
    assert about(listing)["2"] == ("", "F1", "left")
    assert "liste.csv: read as Our clinic, 2019 to 2024" in listing.notes


def test_a_description_may_name_a_scale_and_its_own_counts(clinic: Path) -> None:
    write(clinic / "src", liste__csv="image,Stadium\n1.jpg,R0\n2.jpg,R3\n3.jpg,U\n")
    text = 'scale = "nhs"\ncolumns = { grade = "Stadium" }\ncounts = [2, 0, 0, 0, 1]\n'
    listing = list_source(clinic / "src", described(clinic, text))
    assert grades(listing) == {"1": 0, "2": 4, "3": -1}
    assert "own: 2 graded photographs, by grade 1 / 0 / 0 / 0 / 1; published are 3: 2 / 0 / 0 / 0 / 1" in said(listing)


def test_an_option_goes_before_the_description(clinic: Path) -> None:
    write(clinic / "src", liste__csv="image,first,second\n1.jpg,0,3\n")
    options = described(clinic, 'columns = { grade = "first" }\n')
    assert grades(list_source(clinic / "src", options)) == {"1": 0}
    assert grades(
        list_source(clinic / "src", SourceOptions(layout=options.layout, columns=ColumnOptions({"grade": "second"})))
    ) == {"1": 3}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("columns = { stage = 'x' }", "columns: stage is none of photograph, grade, patient, eye, split, gradable"),
        ("colums = { grade = 'x' }", "colums: no such key; there are title, home"),
        ("codes = { 5 = 7 }", "codes: 7 is no grade; write 0 to 4, 'ungradable' or 'blank'"),
        ("eyes = { 1 = 'rechts' }", "eyes: 'rechts' is neither 'left' nor 'right'"),
        ("gradable = 'good'", "gradable: 'good' is not a list"),
        ("columns = ['x']", "columns: ['x'] is not a table { ... }"),
        ("blank = 'none'", "blank: 'none' is not 'ungradable'"),
        ("scale = 'french'", "scale: french: no scale; choose icdr, messidor"),
        ("counts = [1, 2]", "counts: [1, 2] are not five numbers"),
        ("photographs = '('", "photographs: '(' is no regular expression"),
        ("title", "Expected '='"),
    ],
)
def test_a_wrong_description_is_one_line_with_file_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SourceError) as caught:
        described(tmp_path, text)
    message = caught.value.message
    assert message.startswith(f"{tmp_path / 'own.toml'}: ")
    assert complaint in message
    assert "\n" not in message


def test_a_description_of_columns_that_no_table_has_is_refused(clinic: Path) -> None:
    with pytest.raises(SourceError, match=r"liste\.csv:1: no column 'Grad' among Datei, Fall, Auge, Bild, Stadium"):
        list_source(clinic / "src", described(clinic, 'columns = { photograph = "Datei", grade = "Grad" }\n'))


def test_scales_say_where_they_come_from() -> None:
    for scale in known_scales().values():
        assert scale.source.startswith("https://")
        assert scale.title
        assert scale.steps


def test_a_labels_index_into_class_names_is_read_by_the_names(tmp_path: Path) -> None:
    """Hugging Face's exports; a file without the names is read by its numbers."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    pictures = []
    for number in range(3):
        out = io.BytesIO()
        Image.fromarray(np.full((48, 48, 3), 40 * number, np.uint8)).save(out, "PNG")
        pictures.append({"bytes": out.getvalue(), "path": f"{number}.png"})
    names = '{"info": {"features": {"label": {"names": ["Mild", "Moderate", "No-DR"], "_type": "ClassLabel"}}}}'
    table = pyarrow.table({"image": pictures, "label": [0, 1, 2]})
    for name, metadata in (("named", {"huggingface": names}), ("bare", {})):
        (tmp_path / name).mkdir()
        parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / name / "train-00000-of-00001.parquet")
    assert sorted(grades(list_source(tmp_path / "named")).values()) == [0, 1, 2]
    assert [sample.grade for sample in list_source(tmp_path / "named").samples] == [1, 2, 0]
    assert [sample.grade for sample in list_source(tmp_path / "bare").samples] == [0, 1, 2]
