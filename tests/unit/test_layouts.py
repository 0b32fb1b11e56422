"""Layouts of sources and their tables, as BirdCLEF's years and users have them."""

from pathlib import Path

import pytest

from birdsong.errors import DataError
from birdsong.layouts import (
    Layout,
    Metadata,
    Survey,
    find,
    header,
    of_folder,
    parse_date,
    parse_secondary,
    read,
    tables_to_look_at,
)

SHARED = Path(__file__).parents[2] / "../shared/data"


def survey_of(*paths: str) -> Survey:
    survey = Survey()
    for path in paths:
        survey.see(path)
    return survey


def rows_of(text: str, name: str = "birdclef2021") -> list[Metadata]:
    return list(read(text.splitlines(keepends=True), Layout(name, "t.csv", "")))


# --- recognising ---


@pytest.mark.parametrize(
    ("paths", "columns", "name", "root"),
    [
        (
            ["train.csv", "train_audio/aldfly/XC1.mp3"],
            ["ebird_code", "filename", "primary_label"],
            "birdclef2020",
            "train_audio/",
        ),
        (
            ["train_metadata.csv", "train_short_audio/acafly/XC1.ogg"],
            ["primary_label", "filename"],
            "birdclef2021",
            "train_short_audio/",
        ),
        (
            ["train_metadata.csv", "train_audio/afrsil1/XC1.ogg", "train_soundscapes/a.ogg"],
            ["primary_label", "filename"],
            "birdclef2022",
            "train_audio/",
        ),
        (
            ["train.csv", "train_audio/1139490/CSA1.ogg"],
            ["primary_label", "filename"],
            "birdclef2022",
            "train_audio/",
        ),
        (
            ["birdclef/train_metadata.csv", "birdclef/train_audio/a/1.ogg"],
            ["primary_label", "filename"],
            "birdclef2022",
            "birdclef/train_audio/",
        ),
        (["train_metadata.csv", "a/1.ogg"], ["primary_label", "filename"], "birdclef2022", ""),
    ],
)
def test_a_layout_is_recognised_by_what_is_there(paths, columns, name, root) -> None:
    survey = survey_of(*paths)
    tables = tables_to_look_at(survey)
    found = find(survey, "auto", {tables[0]: columns})
    assert (found.name, found.audio_root, found.table) == (name, root, paths[0])


def test_folders_of_species_need_no_table() -> None:
    found = find(survey_of("blackbird/1.wav", "robin/b/2.wav"), "auto", {})
    assert found == Layout("folders", None, "")
    assert of_folder("robin/b/2.wav").label == "robin"


def test_the_one_folder_that_a_zip_wraps_around_species_is_no_species() -> None:
    found = find(survey_of("mine/blackbird/1.wav", "mine/robin/2.wav"), "auto", {})
    assert found.audio_root == "mine/"


def test_a_single_species_is_no_wrapper() -> None:
    assert find(survey_of("robin/1.wav", "robin/2.wav"), "auto", {}).audio_root == ""


def test_a_recording_outside_all_folders_has_no_label() -> None:
    assert of_folder("lost.wav").label == ""


def test_what_desktops_leave_behind_is_passed_by() -> None:
    survey = survey_of("__MACOSX/robin/._1.wav", "robin/.hidden.wav", ".git/train.csv")
    assert survey.audio_count == 0
    assert not survey.tables


def test_of_two_data_sets_side_by_side_none_is_taken() -> None:
    with pytest.raises(DataError, match="several data sets"):
        tables_to_look_at(survey_of("a/train.csv", "b/train.csv"))


def test_a_table_without_a_needed_column_is_refused_with_what_it_has() -> None:
    survey = survey_of("train_metadata.csv", "train_audio/a/1.ogg")
    with pytest.raises(DataError, match=r"no column 'primary_label'.*it has bird, filename"):
        find(survey, "auto", {"train_metadata.csv": ["bird", "filename"]})


def test_a_wanted_layout_without_its_table_is_refused() -> None:
    with pytest.raises(DataError, match=r"birdclef2020 needs the table train\.csv"):
        find(survey_of("a/1.ogg"), "birdclef2020", {})


@pytest.mark.parametrize("text", ["", "\n", "a,a,b\n"])
def test_a_table_without_a_usable_header_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        header(text.splitlines(keepends=True), "train.csv")


# --- rows ---


def test_a_row_of_2021_is_read_into_fields_and_the_rest_is_kept() -> None:
    (row,) = rows_of(
        "primary_label,secondary_labels,type,latitude,longitude,scientific_name,common_name,"
        "author,date,filename,license,rating,time,url,part\n"
        "acafly,\"['amegfi', 'acafly', '']\",['song'],35.5,-83.1,Empidonax virescens,"
        "Acadian Flycatcher,Ann,2012-05-12,XC1.ogg,CC BY,4.5,07:30pm,http://x,test\n"
    )
    assert row.fault is None
    assert row.id == "acafly/XC1.ogg"
    assert row.secondary == ["amegfi"]
    assert (row.latitude, row.longitude, row.rating) == (35.5, -83.1, 4.5)
    assert (row.date, row.licence, row.author) == ("2012-05-12", "CC BY", "Ann")
    assert row.extra == {
        "type": "['song']",
        "time": "07:30pm",
        "url": "http://x",
        "part": "test",
    }


def test_a_row_of_2020_takes_its_label_from_ebird_code() -> None:
    (row,) = rows_of(
        "ebird_code,filename,species,sci_name,recordist,primary_label,latitude\n"
        "aldfly,XC1.mp3,Alder Flycatcher,Empidonax alnorum,Bo,Empidonax alnorum_Alder,Not "
        "specified\n",
        "birdclef2020",
    )
    assert (row.id, row.label) == ("aldfly/XC1.mp3", "aldfly")
    assert (row.common_name, row.scientific_name, row.author) == (
        "Alder Flycatcher",
        "Empidonax alnorum",
        "Bo",
    )
    assert row.latitude is None
    assert not row.notes


def test_file_names_that_include_the_folder_are_taken_as_they_are() -> None:
    (row,) = rows_of("primary_label,filename\nafrsil1,afrsil1/XC1.ogg\n", "birdclef2022")
    assert row.id == "afrsil1/XC1.ogg"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a,", "names no file"),
        (",1.ogg", "names no species"),
        ("a,../../etc/passwd.ogg", "not a plain relative path"),
        ("a,/etc/x.ogg", "not a plain relative path"),
        ("a,b\\c.ogg", "not a plain relative path"),
        ("a/b,c/x.ogg", "not a plain word"),
        ("a,1.ogg,[],too,many", "5 cells"),
        ("a,1.ogg,\"['b'\"", "not a list of labels"),
        ("a,1.ogg,__import__('os').getcwd()", "not a list of labels"),
        ("a,1.ogg,{'b': 1}", "not a list of labels"),
        ('a,1.ogg,"[[1], 2.5]"', "not a list of labels"),
    ],
)
def test_a_row_that_does_not_parse_is_told_and_the_next_is_read(line: str, says: str) -> None:
    bad, good = rows_of(f"primary_label,filename,secondary_labels\n{line}\nb,2.ogg,[]\n")
    assert says in (bad.fault or "")
    assert good.fault is None


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("date", "2013-00-00"),
        ("date", "0000-00-00"),
        ("date", "last May"),
        ("latitude", "91"),
        ("longitude", "nan°"),
        ("rating", "five"),
        ("rating", "inf"),
    ],
)
def test_a_field_that_does_not_parse_is_left_empty_and_told(column: str, value: str) -> None:
    (row,) = rows_of(f"primary_label,filename,{column}\na,1.ogg,{value}\n")
    assert row.fault is None
    assert getattr(row, column) is None
    assert len(row.notes) == 1
    assert value in row.notes[0]


@pytest.mark.parametrize("value", ["", "nan", "NaN", "None", "Not specified", "unknown", "?"])
def test_a_word_for_nothing_is_nothing(value: str) -> None:
    (row,) = rows_of(f"primary_label,filename,latitude,date,author\na,1.ogg,{value},{value},x\n")
    assert (row.latitude, row.date, row.notes) == (None, None, [])


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2013-05-07", "2013-05-07"),
        ("2013-5-7", "2013-05-07"),
        ("2013/05/07", "2013-05-07"),
        ("2013-05-07 08:00", "2013-05-07"),
        ("2013-02-29", None),
        ("2013", None),
        ("07-05-2013", None),
    ],
)
def test_days_are_read_as_iso_text(text: str, day: str | None) -> None:
    assert parse_date(text) == day


def test_secondary_labels_keep_their_order_and_come_once() -> None:
    assert parse_secondary("['b', 'a', 'b', '']") == ["b", "a"]
    assert parse_secondary("[12, 'a']") == ["12", "a"]
    assert parse_secondary("") == []
    assert parse_secondary("[" * 5_000) is None
    assert parse_secondary("['" + "a" * 20_000 + "']") is None


def test_a_table_with_a_byte_order_mark_quotes_and_short_rows_is_read() -> None:
    first, second = rows_of('primary_label,filename,author\na,1.ogg,"Bo, ""B"" C"\nb,2.ogg\n')
    assert first.author == 'Bo, "B" C'
    assert second.author is None


@pytest.mark.real
def test_the_real_table_of_birdclef_2022_parses_whole() -> None:
    table = SHARED / "birdclef2022_train_metadata.csv"
    if not table.is_file():
        pytest.skip("shared data are absent")
    with table.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(read(lines, Layout("birdclef2022", table.name, "train_audio/")))
    assert len(rows) == 14_852
    assert len({row.id for row in rows}) == 14_852
    assert len({row.label for row in rows}) == 152
    assert not [row for row in rows if row.fault]
    assert sum(bool(row.secondary) for row in rows) > 1_000
    assert all(row.date is None for row in rows)
    assert sum(len(row.notes) for row in rows) == 0


@pytest.mark.real
def test_the_real_table_of_birds_real_parses_but_for_odd_days() -> None:
    table = SHARED / "birds_real/train_metadata.csv"
    if not table.is_file():
        pytest.skip("shared data are absent")
    with table.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(read(lines, Layout("birdclef2021", table.name, "")))
    assert len(rows) == 231
    assert not [row for row in rows if row.fault]
    assert all("date" in note for row in rows for note in row.notes)
    assert sum(row.date is not None for row in rows) > 90
