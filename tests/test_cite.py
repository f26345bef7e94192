"""`kdiga cite` and references.bib: valid BibTeX, and an entry for every paper that an objective or an attack is from."""

import re
import unicodedata
from importlib.resources import files
from pathlib import Path

import pytest

from kdiga.cite import cite, cited, references, source_lines
from kdiga.cli import main
from kdiga.errors import BadInput

ROOT = Path(__file__).parents[1]
TEXT = (files("kdiga") / "references.bib").read_text(encoding="utf-8")
Entry = tuple[str, str, dict[str, str]]


def balanced(text: str, start: int) -> int:
    """The position of the brace that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise AssertionError(f"not closed: {text[start : start + 60]}")


def parsed(text: str) -> list[Entry]:
    """(kind, key, fields) of each entry, by a reader of its own: braces are counted, nothing may stand between entries."""
    entries, at = [], 0
    while at < len(text):
        head = re.compile(r"@([a-z]+)(?=\{)").match(text, at)
        assert head, f"an entry expected at: {text[at : at + 60]}"
        end = balanced(text, head.end())
        key, _, body = text[head.end() + 1 : end].partition(",")
        fields: dict[str, str] = {}
        while body.strip():
            name, _, rest = body.partition("=")
            rest = rest.lstrip()
            assert rest.startswith("{"), f"{key}: {name.strip()} is not in braces"
            close = balanced(rest, 0)
            assert name.strip() not in fields, f"{key} has two of {name.strip()}"
            fields[name.strip()] = rest[1:close]
            separator, body = rest[close + 1 : close + 2], rest[close + 2 :]
            assert separator == ",", f"{key}: no comma after {name.strip()}"
        entries.append((head[1], key, fields))
        at = end + 1 + len(text[end + 1 :]) - len(text[end + 1 :].lstrip())
    return entries


def letters(text: str) -> str:
    return re.sub("[^a-z]", "", unicodedata.normalize("NFD", text).lower())


ENTRIES = parsed(TEXT.partition("\n")[2].strip())


def test_keys_and_arxiv_ids_are_unique_and_entries_sorted() -> None:
    keys = [key for _, key, _ in ENTRIES]
    ids = [fields["eprint"] for _, _, fields in ENTRIES if "eprint" in fields]
    assert keys == sorted(set(keys)) == list(references())
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("kind", "key", "fields"), ENTRIES, ids=[key for _, key, _ in ENTRIES])
def test_every_entry_is_complete(kind: str, key: str, fields: dict[str, str]) -> None:
    assert re.fullmatch(r"[a-z]+\d{4}[a-z]+", key)
    assert {"title", "author", "year"} <= fields.keys()
    assert all(value.strip() for value in fields.values())
    assert fields["year"] == re.sub(r"\D", "", key)
    first_author = fields["author"].partition(" and ")[0]
    assert re.split(r"\d", key)[0] in letters(first_author)
    if "eprint" in fields:
        assert fields["archivePrefix"] == "arXiv"
        assert re.fullmatch(r"\d{4}\.\d{4,5}", fields["eprint"])
        assert int(fields["year"]) >= 2000 + int(fields["eprint"][:2]), "a paper appears in or after the year of its preprint"
    else:
        assert fields["url"].startswith("https://")
    assert {"misc": None, "article": "journal", "inproceedings": "booktitle"}[kind] in {None, *fields}
    assert TEXT.isascii()


@pytest.mark.parametrize("name", list(source_lines()))
def test_what_a_first_line_cites_has_an_entry_by_its_first_author(name: str) -> None:
    """A wrong digit in an arXiv id names another paper, or none."""
    line = source_lines()[name]
    keys = cited(line)
    assert keys or name == "ce"
    for key in keys:
        assert key in references()
        author = re.split(r"\d", key)[0]
        assert author in letters(line) or re.search(r"KDIGA|\(arXiv", line), f"{line} is not by {author}"


def test_entries_are_printed_once_and_in_the_order_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", "trades", "kdiga", "kdiga_author", "pgd", "pgd20", "pgd_at", "autoattack", "square"]) == 0
    shown = [key for _, key, _ in parsed(capsys.readouterr().out.strip())]
    paper = ["zhang2019trades", "shao2021kdiga", "madry2018pgd"]
    assert shown == [*paper, "croce2020autoattack", "croce2020fab", "andriushchenko2020square"]


def test_the_preferred_citation_of_the_repository_is_that_of_kdiga() -> None:
    cff = (ROOT / "CITATION.cff").read_text().partition("preferred-citation:")[2]
    ((_, _, fields),) = parsed(cite(["kdiga"]))
    assert f'title: "{fields["title"].strip("{}")}"' in cff
    given = [f"{first} {family}" for family, first in re.findall(r"family-names: ([^,]+), given-names: ([^}]+)\}", cff)]
    assert fields["author"].split(" and ") == given
    assert f"year: {fields['year']}\n" in cff
    assert f"arXiv:{fields['eprint']}" in cff


def test_unknown_names_and_names_without_a_paper() -> None:
    with pytest.raises(BadInput, match=r"'trade': did you mean 'trades'\? accepted: ce, .*autoattack"):
        cite(["kdiga", "trade"])
    with pytest.raises(BadInput, match="ce comes from no one paper"):
        cite(["ce"])
