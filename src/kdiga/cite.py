"""BibTeX for what kdiga implements. `references.bib` holds the papers; which of them a method is from is read off the first line of its
docstring, which names them by arXiv id (1706.06083) or, where a paper is not on arXiv, by the entry's key in brackets ([wang2020mart])."""

import inspect
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from kdiga.attacks import ATTACKS, AUTOATTACK
from kdiga.errors import BadInput
from kdiga.objectives import OBJECTIVES
from kdiga.options import choices

NAMED = re.compile(r"\b\d{4}\.\d{4,5}\b|\[[a-z]+\d{4}[a-z]+\]")


def cite(names: Sequence[str]) -> str:
    """The BibTeX entries of objectives and attacks (`autoattack` and `pgd` among them) by name, each entry once.

    Raises BadInput for an unknown name and for what no paper introduced.
    """
    entries = references()
    keys = dict.fromkeys(key for name in names for key in sources(name))
    return "\n\n".join(entries[key] for key in keys)


def sources(name: str) -> list[str]:
    """The keys in `references.bib` of the papers that an objective or attack is from."""
    lines = source_lines()
    if name not in lines:
        raise BadInput(f"nothing to cite is called '{name}': {choices(name, lines)}")
    found = cited(lines[name])
    if not found:
        raise BadInput(f"{name} comes from no one paper: there is nothing to cite")
    return found


def source_lines() -> dict[str, str]:
    """The first docstring line of each objective's module and of each attack; all four of them for `autoattack`."""
    attacks = {name: _first(attack) for name, attack in ATTACKS.items()}
    objectives = {name: _first(inspect.getmodule(f)) for name, f in OBJECTIVES.items()}
    return objectives | attacks | {"pgd": attacks["pgd20"], "autoattack": " ".join(attacks[name] for name in AUTOATTACK)}


def cited(line: str) -> list[str]:
    """The keys of the entries that `line` names by arXiv id or by [key], each once. Raises KeyError for a paper without an entry."""
    by_id = {match[1]: key for key, entry in references().items() if (match := re.search(r"eprint = \{(.+?)\}", entry))}
    return list(dict.fromkeys(m.strip("[]") if m.startswith("[") else by_id[m] for m in NAMED.findall(line)))


@cache
def references() -> dict[str, str]:
    """Every entry of `references.bib` by its key."""
    text = (files("kdiga") / "references.bib").read_text(encoding="utf-8")
    entries = [entry.strip() for entry in re.split(r"^(?=@)", text, flags=re.M)[1:]]
    return {re.split(r"[{,]", entry, maxsplit=2)[1].strip(): entry for entry in entries}


def _first(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]
