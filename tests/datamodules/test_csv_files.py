"""CSV files as Excel, pandas, Windows and Macs write them."""

import unicodedata

import pytest

from huscf.datamodules import AudioFolderDataModule
from huscf.errors import DataError
from tests.datamodules.test_audio import save_tone
from tests.datamodules.test_folder import make_module, save_picture

LABELS = ["benign", "malignant"]


@pytest.fixture
def pictures(tmp_path):
    """20 pictures pics/00.png ... of grey level 10, 20, ..."""
    for number in range(20):
        save_picture(tmp_path / "pics" / f"{number:02d}.png", 10 * (number + 1))
    return tmp_path


def list_rows(separator=",", slash="/", labels=LABELS):
    return [f"pics{slash}{n:02d}.png{separator}{labels[n % len(labels)]}" for n in range(20)]


def load(root, content, name="list.csv", encoding="utf-8", **options):
    text = content if isinstance(content, bytes) else content.encode(encoding)
    (root / name).write_bytes(text)
    return make_module(root, source=name, **options).domains["clinic"]


def check(domain, names=tuple(LABELS)):
    """Every picture has its own label."""
    assert domain.class_names == names
    seen = {}
    for samples, labels in (
        (domain.train_samples, domain.train_labels),
        (domain.test_samples, domain.test_labels),
    ):
        seen |= dict(zip(samples[:, 0, 0, 0].tolist(), labels.tolist(), strict=True))
    assert seen == {10 * (n + 1): n % len(names) for n in range(20)}


WRITERS = {
    "plain": ("path,label\n" + "\n".join(list_rows()), "utf-8"),
    "Windows line ends": ("path,label\r\n" + "\r\n".join(list_rows()) + "\r\n", "utf-8"),
    "old Mac line ends": ("path,label\r" + "\r".join(list_rows()), "utf-8"),
    "mark of UTF-8": ("path,label\r\n" + "\r\n".join(list_rows()), "utf-8-sig"),
    "UTF-16": ("path,label\r\n" + "\r\n".join(list_rows()), "utf-16"),
    "UTF-16 without mark": ("path,label\n" + "\n".join(list_rows()), "utf-16-le"),
    "UTF-16, big end first": ("path,label\n" + "\n".join(list_rows()), "utf-16-be"),
    "UTF-32": ("path,label\n" + "\n".join(list_rows()), "utf-32"),
    "UTF-16 with tabs": ("path\tlabel\r\n" + "\r\n".join(list_rows("\t")), "utf-16"),
    "semicolons": ("path;label\n" + "\n".join(list_rows(";")), "utf-8"),
    "sep line": ("sep=;\r\npath;label\r\n" + "\r\n".join(list_rows(";")), "utf-8"),
    "tabs": ("path\tlabel\n" + "\n".join(list_rows("\t")), "utf-8"),
    "bars": ("path|label\n" + "\n".join(list_rows("|")), "utf-8"),
    "capitals": ("Path,LABEL\n" + "\n".join(list_rows()), "utf-8"),
    "blanks": (" path , label\n" + "\n".join(list_rows(" , ")), "utf-8"),
    "quotes": (
        '"path","label"\n' + "\n".join(f'"{r[:11]}","{r[12:]}"' for r in list_rows()),
        "utf-8",
    ),
    "backslashes": ("path,label\n" + "\n".join(list_rows(slash="\\")), "utf-8"),
    "other columns": ("path,age,label\n" + "\n".join(list_rows(",9,")), "utf-8"),
    "empty rows": ("path,label\n" + "\n".join(list_rows()) + "\n,\n\n , \n", "utf-8"),
    "comma at the end": ("path,label,\n" + "\n".join(list_rows()), "utf-8"),
    "capital letters in paths": (
        "path,label\n"
        + "\n".join(list_rows())
        .upper()
        .replace("BENIGN", "benign")
        .replace("MALIGNANT", "malignant"),
        "utf-8",
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_csv_files_of_many_writers_say_the_same(pictures, writer):
    text, encoding = WRITERS[writer]
    check(load(pictures, text, encoding=encoding))


@pytest.mark.parametrize("name", ["list.tsv", "list.txt", "LIST.CSV"])
def test_lists_of_other_endings_are_read(pictures, name):
    check(load(pictures, "path\tlabel\n" + "\n".join(list_rows("\t")), name))


def test_pandas_index_column_is_no_harm(pictures):
    rows = [f"{number},{row}" for number, row in enumerate(list_rows())]
    check(load(pictures, ",path,label\n" + "\n".join(rows)))


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "latin-1", "utf-16"])
def test_letters_beyond_ascii_are_read_in_the_code_pages_people_use(pictures, encoding):
    names = ("gutartig ä", "Ödem")
    text = "path,label\n" + "\n".join(list_rows(labels=names))
    check(load(pictures, text, encoding=encoding), ("gutartig ä", "Ödem"))


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (("0.0", "1.0"), ("0", "1")),
        (("1.0", "2"), ("1", "2")),
        (("1.00", "2."), ("1", "2")),
        (("-1.0", "1.0"), ("-1", "1")),
        (("0.5", "1.0"), ("0.5", "1.0")),
        (("1.0", "two"), ("1.0", "two")),
        (("01", "02"), ("01", "02")),
    ],
)
def test_labels_that_a_program_wrote_as_decimals_are_whole_numbers(pictures, written, names):
    check(load(pictures, "path,label\n" + "\n".join(list_rows(labels=written))), names)


def test_decimal_commas_beside_semicolons(pictures):
    rows = list_rows(";", labels=("1,0", "2,0"))
    check(load(pictures, "path;label\n" + "\n".join(rows)), ("1", "2"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,label\n\0\1\2\3", "cannot be read as CSV"),
        (b"PK\x03\x04\x14\0\6\0", "is an Excel workbook: save it as CSV"),
        (b"", "needs the columns path and label"),
        (b"file;class\n", r"needs the columns path and label, has \['class', 'file'\]"),
        (b"path,label,label\n", "has two columns label"),
        (b"pfad,label\npics/00.png,a\n", r"needs the columns .* has \['label', 'pfad'\]"),
    ],
)
def test_what_is_no_list_says_so(pictures, content, message):
    with pytest.raises(DataError, match=message):
        load(pictures, content)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("pics/00.png,benign,extra", "row with more values than columns"),
        ("pics/._00.png,benign", "file that a system or tool left"),
        ("__MACOSX/pics/00.png,benign", "file that a system or tool left"),
        ("pics/.ipynb_checkpoints/00.png,benign", "file that a system or tool left"),
        (",benign", "row without path or label"),
        ("pics/00.png,", "row without path or label"),
    ],
)
def test_rows_that_cannot_be_used_are_named_by_line(pictures, row, reason):
    text = "path,label\n" + "\n".join([row, *list_rows()[1:]])
    with pytest.raises(DataError, match=rf"1 x {reason} \(line 2\)"):
        load(pictures, text)
    with pytest.warns(UserWarning, match=reason):
        domain = load(pictures, text, on_bad_data="skip")
    assert len(domain.train_labels) + len(domain.test_labels) == 19


def test_lines_are_counted_as_an_editor_does(pictures):
    text = "sep=,\npath,label\n\n" + "\n".join([*list_rows(), "pics/99.png,"])
    with pytest.raises(DataError, match=r"row without path or label \(line 24\)"):
        load(pictures, text)


def test_rows_for_validation_are_not_used_and_a_line_says_so(pictures):
    splits = ("train", "val", "Test", "train")
    rows = [f"{row},{splits[n % 4]}" for n, row in enumerate(list_rows())]
    with pytest.warns(UserWarning, match=r"list.csv: 5 rows are of split val, which is not used"):
        domain = load(pictures, "path,label,split\n" + "\n".join(rows))
    assert (len(domain.train_labels), len(domain.test_labels)) == (10, 5)
    rows = [f"{row},{('train', 'val')[n % 2]}" for n, row in enumerate(list_rows())]
    with pytest.raises(DataError, match="10 x split is neither train nor test"):
        load(pictures, "path,label,split\n" + "\n".join(rows))


@pytest.mark.parametrize("separator", ["|", ";", ","])
def test_several_labels_a_row_are_refused_with_the_way_out(pictures, separator):
    labels = ("mass", f"mass{separator}effusion", "effusion", "none")
    rows = [f'pics/{n:02d}.png,"{labels[n % 4]}"' for n in range(20)]
    text = "path,label\n" + "\n".join(rows)
    with pytest.raises(DataError, match=r"several labels \(mass.effusion\).*label_from: mass"):
        load(pictures, text)
    domain = load(pictures, text, label_from="effusion")
    assert domain.class_names == ("effusion", "no effusion")
    levels = domain.train_samples[domain.train_labels == 0][:, 0, 0, 0].tolist()
    assert levels and all((level // 10 - 1) % 4 in (1, 2) for level in levels)
    with pytest.raises(DataError, match=r"label_from is tumour, which is neither a column .*mass"):
        load(pictures, text, label_from="tumour")


@pytest.mark.parametrize("column", ["Effusion", "effusion", "EFFUSION"])
def test_the_label_may_be_in_another_column(pictures, column):
    rows = [f"pics/{n:02d}.png,{n % 2}.0" for n in range(20)]
    check(load(pictures, "path,Effusion\n" + "\n".join(rows), label_from=column), ("0", "1"))


@pytest.mark.parametrize("typed", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_names_typed_in_one_form_find_files_of_the_other(tmp_path, typed, stored):
    folder = unicodedata.normalize(stored, "Prüfung")
    for number in range(20):
        save_picture(tmp_path / folder / f"{number:02d}.png", 10 * (number + 1))
    rows = [f"Prüfung/{n:02d}.png,{('Ödem', 'normal')[n % 2]}" for n in range(20)]
    text = unicodedata.normalize(typed, "path,label\n" + "\n".join(rows))
    domain = load(tmp_path, text)
    assert domain.class_names == ("normal", unicodedata.normalize("NFC", "Ödem"))
    assert len(domain.train_labels) == 16


def test_a_name_that_fits_two_files_finds_neither(tmp_path):
    for name in ("A.png", "a.PNG"):
        save_picture(tmp_path / "pics" / name)
    (tmp_path / "list.csv").write_text("path,label\npics/a.png,x\n")
    with pytest.raises(DataError, match=r"1 x file is missing \(pics/a.png\)"):
        _ = make_module(tmp_path, source="list.csv").domains


def test_lists_of_recordings_are_read_alike(tmp_path):
    for number in range(10):
        save_tone(tmp_path / "calls" / f"{number}.wav", 200 + 100 * number)
    rows = [f"calls\\{n}.wav;{n % 2},0;P{n // 2}" for n in range(10)]
    (tmp_path / "list.csv").write_bytes(
        ("Path;Label;Patient\r\n" + "\r\n".join(rows)).encode("utf-16")
    )
    data = AudioFolderDataModule({"calls": "list.csv"}, root=str(tmp_path), clients_per_domain=2)
    domain = data.domains["calls"]
    assert domain.class_names == ("0", "1")
    assert (len(domain.train_labels), len(domain.test_labels)) == (8, 2)
